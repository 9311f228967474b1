"""Rows that are kept in a model: samples and labels come back, in whichever table."""

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data import Column, PictureSample, Table, TensorSample, TextSample
from zoo.errors import DataError


def picture(mode):
    pixels = np.random.default_rng(0).integers(0, 255, (5, 4, 4), dtype=np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


def table(*samples, name="image", **columns):
    made = {column: Column(column, "text", tuple(values)) for column, values in columns.items()}
    return Table("here", {name: samples}, made)


@pytest.mark.parametrize(("mode", "kept"), [("RGB", "RGB"), ("L", "L"), ("RGBA", "RGBA"), ("LA", "RGBA"), ("1", "RGB")])
def test_a_picture_comes_back_pixel_for_pixel(mode, kept):
    given = table(PictureSample("one", picture(mode)), kind="a")
    tree = given.keep([0], {"kind": "kind"})

    found = given.with_kept(tree, {"kind": "kind"}).samples("image")[1].open()

    assert found.mode == kept
    assert np.array_equal(np.array(found), np.array(picture(mode).convert(kept)))


def test_tensors_texts_and_missing_samples_come_back():
    samples = (TensorSample("t", torch.arange(12.0).reshape(3, 2, 2)), TextSample("w", "a word"), None)
    given = table(*samples, kind="abc")

    tree = given.keep([2, 0, 1], {"kind": "kind"})
    found = given.with_kept(tree, {"kind": "kind"})

    assert len(found) == 6
    assert found.inputs["image"][3] is None
    assert torch.equal(found.inputs["image"][4].open(), samples[0].tensor)
    assert found.inputs["image"][5].open() == "a word"
    assert found.column("kind").values == ("a", "b", "c", "c", "a", "b")


def test_what_is_kept_does_not_follow_the_tensor_of_the_sample():
    pixels = torch.zeros(3, 2, 2)
    tree = table(TensorSample("t", pixels), kind="a").keep([0], {"kind": "kind"})
    pixels += 1

    assert tree["inputs"]["image"][0].sum() == 0


def test_labels_go_by_task_into_a_table_with_other_names():
    tree = table(TextSample("w", "x"), kind="a", more="b").keep([0], {"label": "kind"})
    other = table(TextSample("v", "y"), name="text", species="c", size="d").with_split(["train"])

    found = other.with_kept(tree, {"label": "species"})

    assert found.column("species").values == ("c", "a")
    assert found.column("size").values == ("d", None)
    assert found.split == ("train", "train")
    assert [sample.open() for sample in found.samples("text")] == ["y", "x"]


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree.pop("names"),
        lambda tree: tree["inputs"]["image"].append(None),
        lambda tree: tree["labels"]["kind"].append("b"),
        lambda tree: tree["inputs"].update(image=[{"picture": torch.zeros(2, 2)}]),
        lambda tree: tree["inputs"].update(image=[{"pixels": 1}]),
        lambda tree: tree["inputs"].update(image=[3]),
        lambda tree: tree.update(inputs=3),
    ],
)
def test_damaged_rows_are_refused(change):
    given = table(PictureSample("one", picture("RGB")), kind="a")
    tree = given.keep([0], {"kind": "kind"})
    change(tree)

    with pytest.raises(DataError):
        given.with_kept(tree, {"kind": "kind"})
