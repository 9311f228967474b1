"""Columns of masks: what is read of each source, what is opened when, and what is said of those that cannot be used."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data import Column, Masks, PictureSample, Table, TextSample, check_labels, read, split_table
from zoo.data.masks import open_mask, picture_size
from zoo.errors import ConfigError, DataError, UnknownName


def mask_bytes(value: int, size=(8, 6)) -> bytes:
    stream = io.BytesIO()
    Image.new("L", size, value).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def scenes(tmp_path, draw):
    """A table of three pictures in a folder of their own, with masks of the values 1, 2 and 3."""
    for row in range(3):
        draw(f"scenes/{row}.jpg")
        (tmp_path / f"scenes/{row}.png").write_bytes(mask_bytes(row + 1))
    path = tmp_path / "scenes/all.csv"
    path.write_text("image,map,sort\n0.jpg,0.png,a\n1.jpg,1.png,b\n2.jpg,2.png,a\n")
    return path


def values(table: Table, name: str = "map") -> list[int | None]:
    masks = Masks(table.column(name))
    return [None if mask is None else int(mask.unique()) for mask in masks]


def test_a_csv_names_its_masks_relative_to_its_folder(scenes):
    table = read(scenes, masks=["map"])

    assert {name: column.kind for name, column in table.columns.items()} == {"sort": "text", "map": "mask"}
    assert values(table) == [1, 2, 3]
    assert values(table.select([2, 0])) == [3, 1]
    assert Masks(table.column("map"))[0].shape == (6, 8)


@pytest.mark.parametrize(("labels", "kept"), [(["sort"], ["sort", "map"]), (["map"], ["map"]), ([], ["map"])], ids=str)
def test_masks_are_labels_whether_they_are_named_as_such_or_not(scenes, labels, kept):
    assert list(read(scenes, masks=["map"], labels=labels).columns) == kept


def test_without_masks_the_column_is_the_text_that_it_is(scenes):
    assert read(scenes).column("map").values == ("0.png", "1.png", "2.png")


def test_parquet_holds_masks_as_bytes_paths_or_both(tmp_path, draw):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    (tmp_path / "two.png").write_bytes(mask_bytes(2))
    image = {"bytes": draw("one.jpg").read_bytes(), "path": None}
    maps = [{"bytes": mask_bytes(1), "path": None}, {"bytes": None, "path": "two.png"}, None]
    parquet.write_table(pa.table({"image": [image] * 3, "map": maps}), tmp_path / "all.parquet")

    assert values(read(tmp_path / "all.parquet", masks=["map"])) == [1, 2, None]


def test_hugging_face_images_are_masks_and_the_other_image_is_the_picture(jpeg):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"photo": datasets.Image(), "map": datasets.Image(), "age": datasets.Value("int64")})
    cells = {
        "photo": [{"bytes": jpeg, "path": None}] * 2,
        "map": [{"bytes": mask_bytes(4), "path": None}, None],
        "age": [1, 2],
    }
    table = read(datasets.Dataset.from_dict(cells, features=features), masks=["map"])

    assert table.inputs["image"][0].open().mode == "RGB"
    assert values(table) == [4, None]
    assert table.column("age").values == (1, 2)


def test_an_empty_cell_is_a_row_without_a_mask(scenes):
    scenes.write_text("image,map\n0.jpg,\n1.jpg,1.png\n")

    assert values(read(scenes, masks=["map"])) == [None, 2]


@pytest.mark.parametrize("check", [True, False])
def test_a_row_whose_mask_is_missing_is_skipped_with_its_name(scenes, check):
    (scenes.parent / "1.png").unlink()

    table = read(scenes, masks=["map"], check=check)

    assert values(table) == [1, 3]
    assert [(one.name, one.reason) for one in table.skipped] == [(str(scenes.parent / "1.png"), "no such file")]
    with pytest.raises(DataError, match=r"1 of 3 pictures cannot be used: .*1\.png \(no such file\)"):
        read(scenes, masks=["map"], strict=True)


def test_a_mask_that_is_no_picture_is_found_by_the_check_only(scenes):
    (scenes.parent / "1.png").write_text("this is none")

    assert values(read(scenes, masks=["map"])) == [1, 3]
    table = read(scenes, masks=["map"], check=False)
    assert len(table) == 3
    with pytest.raises(DataError, match=r"1\.png' cannot be read: not a picture"):
        values(table)


def test_a_mask_of_colours_is_an_error_that_names_it(scenes):
    Image.new("RGB", (8, 6)).save(scenes.parent / "2.png")

    with pytest.raises(DataError, match=r"2\.png: A mask must be a grey or palette picture .* got mode RGB"):
        read(scenes, masks=["map"])


def test_nothing_is_opened_before_it_is_asked_for(scenes, monkeypatch):
    table = read(scenes, masks=["map"], check=False)
    monkeypatch.setattr(Image, "open", lambda *args, **kwargs: pytest.fail("a mask was opened"))

    masks = Masks(table.select([0, 1]).column("map"))

    assert len(masks) == 2


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"masks": ["maps"]}, UnknownName, r"has no column 'maps'; .* Did you mean 'map'\?"),
        ({"masks": "map"}, ConfigError, r"masks must be a list of column names, got 'map'"),
        ({"masks": ["image"]}, ConfigError, "'image' is an input column and cannot hold masks as well"),
    ],
)
def test_columns_that_cannot_hold_masks_are_refused(scenes, arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        read(scenes, **arguments)


def test_sources_without_columns_of_files_are_refused_by_name(pets, scenes):
    from torch.utils.data import TensorDataset

    with pytest.raises(ConfigError, match="A folder of pictures has no columns to choose from, got masks='map'"):
        read(pets, masks=["map"])
    with pytest.raises(ConfigError, match="A table that is read already has no columns to choose from"):
        read(read(scenes), masks=["map"])
    with pytest.raises(ConfigError, match="A torch data set has no columns of files, got masks='map'; put its samples"):
        read(TensorDataset(torch.zeros(2, 3, 4, 4)), masks=["map"])


def masks_table(*there: bool, split=None) -> Table:
    samples = tuple(
        PictureSample(f"mask {n}", Image.new("L", (4, 3), n)) if one else None for n, one in enumerate(there)
    )
    pictures = tuple(PictureSample(f"picture {n}", Image.new("RGB", (4, 3))) for n in range(len(there)))
    return Table("drawn", {"image": pictures}, {"map": Column("map", "mask", samples)}, split)


def test_one_mask_in_train_is_enough_to_learn_from():
    check_labels(masks_table(True, False), ["map"])
    with pytest.raises(DataError, match="column 'map' must have a value in one row or more in train, got empty cells"):
        check_labels(masks_table(False, True, split=("train", "test")), ["map"])


def test_masks_are_no_strata():
    table = masks_table(*[True] * 10)

    parts = split_table(table, stratify=["map"], seed=1)

    plain = split_table(table, seed=1)
    assert {part: len(rows) for part, rows in parts.items()} == {"train": 8, "validation": 2}
    assert values(parts["validation"]) == values(plain["validation"])


def test_a_text_is_no_mask():
    with pytest.raises(DataError, match="a is a text, and a mask is a picture"):
        open_mask(TextSample("a", "cat"))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_size_of_a_picture_is_that_which_it_shows(tmp_path, draw, orientation):
    from zoo.data import BytesSample, FileSample, TensorSample

    path = draw("turned.jpg", size=(8, 6), orientation=orientation)

    for sample in (FileSample(path), BytesSample("x", path.read_bytes())):
        shown = sample.open()
        assert picture_size(sample) == ((shown.height, shown.width), False)
    assert picture_size(TensorSample("x", torch.zeros(3, 4, 5))) == ((4, 5), True)


def test_rows_may_be_sliced(scenes):
    masks = Masks(read(scenes, masks=["map"]).column("map"))

    assert [int(np.asarray(mask).max()) for mask in masks[1:]] == [2, 3]
