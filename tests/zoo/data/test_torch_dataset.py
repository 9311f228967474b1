import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from zoo.data import DatasetSample, Skipped, read
from zoo.errors import DataError, ShapeError, UnknownName


class Items(Dataset):
    """A data set of ready items that counts how often each is opened."""

    def __init__(self, items, classes=None):
        self.items = items
        self.opened = []
        if classes is not None:
            self.classes = classes

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.opened.append(index)
        item = self.items[index]
        if isinstance(item, Exception):
            raise item
        return item


def picture():
    return Image.new("RGB", (8, 6))


def test_pairs_give_the_column_label_and_open_each_item_once():
    source = Items([(picture(), "cat"), (torch.zeros(3, 4, 4), None)])
    table = read(source)

    assert table.column("label").values == ("cat", None)
    assert source.opened == [0, 1]
    assert [type(sample) for sample in table.inputs["image"]] == [DatasetSample] * 2
    assert [sample.name for sample in table.inputs["image"]] == ["row 0 of Items", "row 1 of Items"]
    assert table.inputs["image"][0].open().size == (8, 6)
    assert table.inputs["image"][1].open().shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("targets", "kind", "values"),
    [
        ([torch.tensor(1), torch.tensor(0)], "integer", (1, 0)),
        ([np.int64(1), 0], "integer", (1, 0)),
        ([0.5, torch.tensor(2)], "number", (0.5, 2.0)),
        ([["a"], ["a", "b"]], "list", (("a",), ("a", "b"))),
        ([True, None], "boolean", (True, None)),
    ],
)
def test_targets_become_plain_values(targets, kind, values):
    column = read(Items([(picture(), target) for target in targets])).column("label")

    assert (column.kind, column.values) == (kind, values)


def test_integers_become_the_names_of_classes_also_through_a_subset():
    source = Items([(picture(), n) for n in (0, torch.tensor(1), None)], classes=["cat", "dog"])

    assert read(source).column("label").values == ("cat", "dog", None)
    assert read(Subset(source, [1])).column("label").values == ("dog",)
    with pytest.raises(DataError, match="row 0 of Items must have a target from 0 to 0, got 1"):
        read(Items([(picture(), 1)], classes=["cat"]))


def test_a_target_that_is_a_mapping_gives_a_column_a_key():
    table = read(Items([(picture(), {"kind": "cat", "age": 3}), (picture(), {"kind": "dog"})]), labels=["age", "kind"])

    assert table.column("kind").values == ("cat", "dog")
    assert table.column("age").values == (3, None)


def test_items_that_are_mappings_give_input_columns_and_split():
    items = [{"input": picture(), "kind": "cat", "split": "train"}, {"input": picture(), "kind": "dog", "split": "val"}]
    table = read(Items(items))

    assert table.split == ("train", "validation")
    assert list(table.columns) == ["kind"]
    assert table.inputs["image"][0].open().size == (8, 6)


def test_the_input_of_a_mapping_may_be_named():
    source = Items([{"photo": picture(), "kind": "cat"}])

    assert list(read(source, image="photo").columns) == ["kind"]
    with pytest.raises(UnknownName, match="row 0 of Items has no column 'image'; its columns: photo, kind"):
        read(source)
    with pytest.raises(DataError, match=r"image='photo' names a key, but the item is a tuple of 2. Leave image out"):
        read(Items([(picture(), 1)]), image="photo")


def test_inputs_alone_have_no_columns():
    assert read(Items([picture()])).columns == {}
    assert read(TensorDataset(torch.zeros(2, 3, 4, 4))).columns == {}


@pytest.mark.parametrize(
    ("target", "held"),
    [((0.1, 0.2), "tuple of float"), (torch.zeros(2), r"Tensor of shape \(2,\)"), (object(), "object")],
)
def test_a_target_of_another_sort_is_refused_with_its_type(target, held):
    with pytest.raises(DataError, match=f"Column 'label' must hold texts, .* got {held} in row 0 of Items"):
        read(Items([(picture(), target)]))


@pytest.mark.parametrize("value", [np.zeros((4, 4, 3)), "cat.jpg", None])
def test_an_input_of_another_sort_is_refused_with_its_type(value):
    with pytest.raises(DataError, match=rf"row 0 of Items must have a PIL .* got {type(value).__name__}"):
        read(Items([(value, 1)]))


def test_a_tensor_of_another_rank_is_refused_with_its_shape():
    with pytest.raises(ShapeError, match=r"must have a tensor \(C, H, W\) as its input, got shape \(4, 4\)"):
        read(Items([(torch.zeros(4, 4), 1)]))


def test_longer_items_are_refused():
    with pytest.raises(DataError, match=r"must be \(input, target\) or a mapping, got a tuple of 3"):
        read(Items([(picture(), 1, 2)]))


def test_an_item_that_cannot_be_opened_is_skipped_with_its_reason():
    source = Items([(picture(), 1), OSError("image file is truncated (3 bytes)"), (picture(), 2)])
    table = read(source)

    assert table.column("label").values == (1, 2)
    assert table.skipped == (Skipped("row 1 of Items", "truncated file"),)
    with pytest.raises(DataError, match=r"1 of 3 pictures cannot be used: row 1 of Items \(truncated file\)"):
        read(source, strict=True)


def test_a_picture_that_is_decoded_late_is_skipped_with_its_reason(draw):
    path = draw("a.jpg", size=(64, 64))
    path.write_bytes(path.read_bytes()[:-50])
    with Image.open(path) as late:
        table = read(Items([(late, 1), (picture(), 2)]))

    assert [skipped.reason for skipped in table.skipped] == ["truncated file"]


def test_a_mistake_in_the_data_set_is_not_taken_for_a_bad_picture():
    with pytest.raises(KeyError, match="colour"):
        read(Items([KeyError("colour"), (picture(), 1)]))


def test_a_data_set_without_length_is_refused():
    class Endless(IterableDataset):
        def __iter__(self):
            return iter([])

    class Unmeasured(Dataset):
        def __getitem__(self, index):
            return picture()

    for source in (Endless(), Unmeasured()):
        with pytest.raises(DataError, match="must have a length and be indexed by row, got"):
            read(source)


def test_an_empty_data_set_is_refused():
    with pytest.raises(DataError, match="Items must have one row or more, got none"):
        read(Items([]))


def test_torchvision_data_sets_are_read_with_their_class_names(pets):
    from torchvision.datasets import FakeData, ImageFolder

    folder = read(ImageFolder(str(pets)))
    fake = read(FakeData(size=3, image_size=(3, 8, 8), num_classes=2))

    assert folder.column("label").values == ("cat", "cat", "dog", "dog")
    assert fake.column("label").kind == "integer"
    assert fake.inputs["image"][0].open().size == (8, 8)
