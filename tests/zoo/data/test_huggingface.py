import io

import datasets
import pytest
from PIL import Image

from zoo.data import Skipped, read, split_table
from zoo.errors import ConfigError, DataError, UnknownName


def picture(colour="red", size=(8, 6)):
    return Image.new("RGB", size, colour)


@pytest.fixture
def rows(jpeg):
    """Four rows: two classes, one cell missing, a list of classes, and a column that can be no label."""
    kinds = datasets.ClassLabel(names=["cat", "dog"])
    features = datasets.Features(
        {
            "photo": datasets.Image(),
            "kind": kinds,
            "marks": datasets.Sequence(kinds),
            "age": datasets.Value("int64"),
            "name": datasets.Value("string"),
            "box": datasets.Sequence(datasets.Value("float32")),
        }
    )
    return datasets.Dataset.from_dict(
        {
            "photo": [{"bytes": jpeg, "path": None}] * 4,
            "kind": [0, 1, -1, None],
            "marks": [[0], [0, 1], [], None],
            "age": [1, None, 3, 4],
            "name": ["a", "b", None, "d"],
            "box": [[0.5]] * 4,
        },
        features=features,
    )


def test_features_give_the_picture_column_the_class_names_and_the_kinds(rows):
    table = read(rows)

    assert {name: (column.kind, column.values) for name, column in table.columns.items()} == {
        "kind": ("text", ("cat", "dog", None, None)),
        "marks": ("list", (("cat",), ("cat", "dog"), (), None)),
        "age": ("integer", (1, None, 3, 4)),
        "name": ("text", ("a", "b", None, "d")),
    }
    assert [sample.open().size for sample in table.inputs["image"]] == [(8, 6)] * 4
    assert [sample.name for sample in table.inputs["image"]][:2] == ["row 0 of Dataset", "row 1 of Dataset"]
    assert table.split is None


def test_pictures_stay_encoded_until_they_are_opened(rows, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *args, **kwargs: pytest.fail("a picture was decoded"))

    table = read(rows, check=False)

    assert len(table) == 4
    assert len({sample.digest() for sample in table.inputs["image"]}) == 1


def test_a_format_or_a_selection_does_not_change_what_is_read(rows):
    table = read(rows.select([3, 1]).with_format("numpy"), labels=["kind"])

    assert table.column("kind").values == (None, "dog")


def test_pictures_in_files_and_unreadable_ones_are_found(draw, tmp_path):
    good = draw("a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"")
    source = datasets.Dataset.from_dict(
        {"image": [str(good), str(tmp_path / "b.jpg"), str(tmp_path / "c.jpg"), None], "y": [1, 2, 3, 4]}
    ).cast_column("image", datasets.Image())

    table = read(source)

    assert table.column("y").values == (1,)
    assert table.skipped == (
        Skipped("row 1 of Dataset", "empty file"),
        Skipped("row 2 of Dataset", "no such file"),
        Skipped("row 3 of Dataset", "no picture given"),
    )


def test_exif_orientation_is_applied():
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(stream, "JPEG", exif=exif)
    source = datasets.Dataset.from_dict({"image": [{"bytes": stream.getvalue(), "path": None}]}).cast_column(
        "image", datasets.Image()
    )

    assert read(source).inputs["image"][0].open().size == (6, 8)


def test_a_dict_of_data_sets_gives_the_split(rows):
    source = datasets.DatasetDict({"test": rows.select([0]), "train": rows.select([1, 2]), "valid": rows.select([3])})
    table = read(source, labels=["name"])

    assert table.split == ("train", "train", "validation", "test")
    assert table.column("name").values == ("b", None, "d", "a")
    assert [sample.name for sample in table.inputs["image"]][1:3] == [
        "row 1 of train of DatasetDict",
        "row 0 of valid of DatasetDict",
    ]
    assert {name: len(part) for name, part in split_table(table).items()} == {"train": 2, "validation": 1, "test": 1}


def test_mixed_cells_across_parts_are_named_with_part_and_row(rows):
    infinite = rows.select_columns(["photo"]).add_column("x", [0.5, 0.5, 0.5, float("inf")])
    source = datasets.DatasetDict({"train": infinite.select([0, 1]), "test": infinite.select([2, 3])})

    with pytest.raises(DataError, match="'x' must hold finite numbers, got inf in row 1 of test of DatasetDict"):
        read(source)


def test_a_dict_with_other_keys_or_features_is_refused(rows):
    with pytest.raises(DataError, match="keys of a DatasetDict must be train, validation, test, got 'extra'"):
        read(datasets.DatasetDict({"train": rows, "extra": rows}))
    with pytest.raises(DataError, match="must have equal features, got others in test of DatasetDict"):
        read(datasets.DatasetDict({"train": rows, "test": rows.remove_columns("age")}))
    with pytest.raises(DataError, match="must hold one data set or more"):
        read(datasets.DatasetDict())
    with pytest.raises(ConfigError, match="keys of a DatasetDict are its split, got split='kind'"):
        read(datasets.DatasetDict({"train": rows}), split="kind")


def test_a_split_column_is_taken_from_a_single_data_set(rows):
    parted = rows.add_column("split", ["train", "train", "val", "test"])

    assert read(parted).split == ("train", "train", "validation", "test")
    assert "split" not in read(parted).columns


def test_a_streamed_data_set_is_refused_with_the_cure(rows):
    with pytest.raises(
        DataError, match=r"must have a length, got a streamed IterableDataset. Load it with streaming=False"
    ):
        read(rows.to_iterable_dataset())


def test_several_picture_columns_ask_for_a_name(rows):
    two = rows.add_column("mask", [{"bytes": b"", "path": None}] * 4).cast_column("mask", datasets.Image())

    with pytest.raises(DataError, match=r"has 2 picture columns: photo, mask. Name one"):
        read(two)
    assert len(read(two, image="photo")) == 4
    assert "mask" not in read(two, image="photo").columns


def test_a_data_set_without_pictures_asks_for_a_name(rows):
    with pytest.raises(UnknownName, match="must have a picture column"):
        read(rows.remove_columns("photo"))


def test_a_column_that_can_be_no_label_is_refused_if_named(rows):
    with pytest.raises(DataError, match=r"'box' must hold texts, .* got list of float"):
        read(rows, labels=["box"])


def test_rows_survive_a_trip_to_another_process(rows):
    import pickle

    sample = read(rows).inputs["image"][2]

    assert pickle.loads(pickle.dumps(sample)).digest() == sample.digest()
