"""Training on masks: targets follow the pictures, views too; nothing is held; what is wrong is said before training."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.augmentation import Augmentation
from zoo.contracts.masks import MISSING
from zoo.data import Column, Table
from zoo.errors import ConfigError, DataError, UnknownName
from zoo.model import Model
from zoo.training.rows import masks as target_masks
from zoo.training.rows.batches import Collator, SampleRows, ViewRows
from zoo.training.rows.masks import MaskTargets, stacked_targets
from zoo.training.rows.targets import columns_of, encode, row_targets

NAMES = ["ground", "red", "blue"]
COLOURS = np.array([[0, 0, 0], [230, 30, 30], [30, 30, 230]])
SHORT = {"epochs": 1, "batch_size": 4, "device": "cpu"}


def scene(seed: int, size: tuple[int, int] = (64, 80)) -> tuple[Image.Image, Image.Image]:
    """Draw coloured rectangles on noise, and the mask of them."""
    random = np.random.default_rng(seed)
    labels = np.zeros(size, dtype=np.uint8)
    for kind in (1, 2):
        height, width = random.integers(size[0] // 3, size[0] // 2, 2)
        top, left = random.integers(0, size[0] - height), random.integers(0, size[1] - width)
        labels[top : top + height, left : left + width] = kind
    noise = random.integers(60, 200, (*size, 3))
    colours = np.where(labels[..., None] > 0, (COLOURS[labels] * 4 + noise) // 5, noise)
    return Image.fromarray(colours.astype(np.uint8)), Image.fromarray(labels)


@pytest.fixture
def scenes(tmp_path) -> Callable[..., Path]:
    """Write a table of pictures and masks; a mask may be another than the scene's, or None for an empty cell."""

    def write(rows: int = 8, masks: dict[int, Image.Image | None] | None = None, **options) -> Path:
        lines = ["image,map"]
        for row in range(rows):
            picture, mask = scene(row, **options)
            chosen = (masks or {}).get(row, mask)
            picture.save(tmp_path / f"{row}.png")
            if chosen is not None:
                chosen.save(tmp_path / f"{row}-mask.png")
            lines.append(f"{row}.png,{'' if chosen is None else f'{row}-mask.png'}")
        (tmp_path / "scenes.csv").write_text("\n".join(lines) + "\n")
        return tmp_path / "scenes.csv"

    return write


@pytest.fixture
def build() -> Callable[..., Model]:
    def make(*more, backbone: str = "timm:test_resnet?img_size=64", **config) -> Model:
        head = {"type": "segmentation", "name": "map", "classes": NAMES, "dim": 16, **config}
        return zoo.build(backbone, [head, *more], weights=None, seed=0)

    return make


def rows_for(model: Model, table: Table) -> SampleRows:
    return SampleRows(model, table, row_targets(model, table, columns_of(model, table)))


# --- what is learnt


@pytest.mark.slow
def test_training_finds_the_rectangles_and_the_bundle_finds_them_too(scenes, build, tmp_path):
    model, data = build(backbone="timm:test_resnet"), scenes(16)
    table = zoo.read(data, masks=["map"])
    untrained = zoo.evaluate(model, table)["map"]["miou"]

    history = zoo.fit(model, data, method="fine_tuning", epochs=6, batch_size=4, lr=1e-2, device="cpu")
    trained = zoo.evaluate(model, table)["map"]

    assert untrained < 0.35
    assert trained["miou"] > 0.6
    assert set(history.validation["map"]) == {"miou", "pixel_accuracy"}
    assert history.select == "map/miou"
    again = zoo.load(model.save(tmp_path / "bundle"))
    picture = tmp_path / "0.png"
    predicted = model.predict(picture)["map"]
    recipe = model.spec.streams["main"].backbone.preprocessing
    assert tuple(predicted.mask.shape) == recipe.size
    assert torch.equal(predicted.mask, again.predict(picture)["map"].mask)
    truth = recipe.apply_mask(Image.open(tmp_path / "0-mask.png"))
    assert (predicted.mask == truth).float().mean() > 0.7


@pytest.mark.slow
def test_features_of_a_frozen_backbone_are_kept_and_masks_are_not(scenes, build, monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    opened = []
    monkeypatch.setattr(target_masks, "open_mask", lambda sample: opened.append(sample.name) or real(sample))
    model, data = build(), scenes(6)
    before = {name: value.clone() for name, value in model.heads.state_dict().items()}

    history = zoo.fit(model, data, method="feature_extraction", validation=0, **SHORT)

    assert history.cached_features
    assert len(opened) == 12  # once to be checked, once in the epoch
    assert any(not torch.equal(value, before[name]) for name, value in model.heads.state_dict().items())


real = target_masks.open_mask


@pytest.mark.slow
def test_a_row_without_a_mask_adds_nothing(scenes, build):
    model = build()
    table = zoo.read(scenes(4, masks={1: None}), masks=["map"])
    rows = rows_for(model, table)
    batch = Collator(model.preparers())([rows[n] for n in range(4)])
    short = Collator(model.preparers())([rows[n] for n in (0, 2, 3)])

    assert batch["targets"]["map"].shape == (4, 64, 64)
    assert bool((batch["targets"]["map"][1] == MISSING).all())
    with torch.no_grad():
        losses = [model.losses(model(one["inputs"]), one["targets"])["map"] for one in (batch, short)]
    torch.testing.assert_close(*losses)
    assert zoo.fit(model, table, validation=0.25, **SHORT).rows == {"train": 3, "validation": 1}


@pytest.mark.slow
def test_masks_stand_beside_other_labels_and_are_not_used_to_stratify(scenes, build):
    table = zoo.read(scenes(8), masks=["map"])
    sort = Column("sort", "text", tuple("ab" * 4))
    table = Table(table.source, table.inputs, {**table.columns, "sort": sort})
    model = build({"type": "classifier", "name": "sort", "classes": ["a", "b"]})

    history = zoo.fit(model, table, select="tasks", **SHORT)

    assert set(history.validation) == {"map", "sort"}


def test_balanced_class_weights_are_learnt_from_the_pixels(scenes, build):
    whole = [np.asarray(scene(row)[1]) for row in range(4)]
    counts = np.bincount(np.concatenate([one.ravel() for one in whole]), minlength=3)
    model = build(class_weights="balanced")

    zoo.fit(model, scenes(4), validation=0, **SHORT)

    torch.testing.assert_close(
        model.task("map").class_weights, torch.tensor(counts.sum() / (3 * counts), dtype=torch.float32)
    )


def test_heads_are_described_from_the_masks(scenes):
    table = zoo.read(scenes(2), masks=["map"])

    [head] = zoo.infer_heads(table)

    assert head.flat() == {"type": "segmentation", "name": "map", "classes": ["0", "1", "2"], "values": [0, 1, 2]}


# --- targets and pictures


def two_kinds(size: tuple[int, int], seed: int) -> tuple[Image.Image, Image.Image]:
    """Draw squares of two greys, 40 and 200, and the mask that calls them 0 and 2."""
    coarse = np.random.default_rng(seed).integers(0, 2, (10, 10)) * 2
    labels = np.kron(coarse, np.ones((12, 12)))[: size[0], : size[1]].astype(np.uint8)
    return Image.fromarray(np.repeat((40 + 80 * labels)[..., None], 3, axis=2).astype(np.uint8)), Image.fromarray(
        labels
    )


def grey_of(model: Model, prepared: torch.Tensor) -> torch.Tensor:
    """Undo the normalisation of a grey picture, ``(H, W)`` in levels of 0 to 255."""
    recipe = model.spec.streams["main"].backbone.preprocessing
    return ((prepared[0] * recipe.std[0] + recipe.mean[0]) * 255).round()


@pytest.mark.parametrize("size", [(64, 80), (100, 70), (40, 40)], ids=str)
def test_a_target_is_the_class_of_each_pixel_of_the_prepared_picture(build, size):
    model = build()
    table = table_of(*two_kinds(size, seed=0))
    row = rows_for(model, table)[0]
    grey, target = grey_of(model, row["inputs"]["image"]), row["targets"]["map"]

    clear = (grey == 40) | (grey == 200)  # not where two squares meet
    assert clear.float().mean() > 0.5
    assert torch.equal((grey[clear] == 200).long() * 2, target[clear])


def table_of(picture: Image.Image, mask: Image.Image) -> Table:
    from zoo.data import PictureSample

    column = Column("map", "mask", (PictureSample("the mask", mask),))
    return Table("one", {"image": (PictureSample("the picture", picture),)}, {"map": column})


def test_views_move_targets_as_pictures_and_are_the_same_for_the_same_seed(build):
    model = build()
    table = table_of(*two_kinds((96, 108), seed=1))
    targets = row_targets(model, table, columns_of(model, table))
    varied = ViewRows(model, table, targets, Augmentation(scale=(0.2, 0.8), flip=0.5, vertical_flip=0.5), seed=3)
    found = []
    for epoch in range(8):
        varied.epoch = epoch
        row = pickle.loads(pickle.dumps(varied))[0]
        grey, target = grey_of(model, row["inputs"]["image"]), row["targets"]["map"]
        clear = (grey == 40) | (grey == 200)
        assert clear.float().mean() > 0.3
        assert torch.equal((grey[clear] == 200).long() * 2, target[clear])
        assert torch.equal(target, varied[0]["targets"]["map"])
        found.append(tuple(target.flatten().tolist()))

    assert len(set(found)) == 8


def test_ready_tensors_have_ready_masks(build):
    from zoo.data import TensorSample

    labels = torch.randint(0, 3, (64, 64), generator=torch.Generator().manual_seed(0))
    column = Column("map", "mask", (TensorSample("a mask", labels),))
    table = Table("one", {"image": (TensorSample("a picture", torch.zeros(3, 64, 64)),)}, {"map": column})

    assert torch.equal(rows_for(build(), table)[0]["targets"]["map"], labels)


def test_targets_are_held_as_places_of_files_only(scenes, build):
    table = zoo.read(scenes(3), masks=["map"])
    targets = row_targets(build(), table, {"map": "map"})["map"]

    assert isinstance(targets, MaskTargets)
    assert len(targets) == 3
    assert len(pickle.dumps(targets)) < 4000


def test_masks_of_two_sizes_cannot_be_a_batch():
    assert stacked_targets([torch.zeros(2, 3).long(), torch.full((1, 1), MISSING)]).shape == (2, 2, 3)
    with pytest.raises(RuntimeError, match="equal size"):
        stacked_targets([torch.zeros(2, 3), torch.zeros(3, 2)])


@pytest.mark.slow
def test_what_is_fused_of_two_backbones_follows_the_larger_picture(scenes):
    head = {"type": "segmentation", "name": "map", "classes": NAMES, "dim": 16}
    fused = {"type": "feature_fusion", "name": "all", "head": {**head}, "method": "maps", "dim": 16}
    model = zoo.build(
        {"a": "timm:test_resnet?img_size=64", "b": "timm:test_efficientnet?img_size=96"}, fused, inputs="image",
        weights=None, seed=0,
    )  # fmt: skip
    data = scenes(6)

    history = zoo.fit(model, data, **SHORT)
    targets = row_targets(model, zoo.read(data, masks=["map"]), {"map": "map"})["map"]

    assert targets.key == "b"
    assert targets[0].shape == (96, 96)
    assert 0 <= history.validation["map"]["miou"] <= 1


# --- what is refused


WRONG = {
    "value": (
        Image.new("L", (80, 64), 7),
        r"0-mask\.png: The head 'map' knows no pixel value 7; its values are 0 \(ground\), 1 \(red\), 2 \(blue\), and",
    ),
    "size": (
        Image.new("L", (64, 80), 1),
        r"0-mask\.png must have the size of its picture \S*0\.png, 64×80 pixels, got 80×64; scale it",
    ),
    "mode": (
        Image.new("RGB", (80, 64)),
        r"0-mask\.png: A mask must be a grey or palette picture .* got mode RGB",
    ),
}


@pytest.mark.parametrize(("mask", "sentence"), WRONG.values(), ids=WRONG)
def test_a_wrong_mask_is_one_sentence_before_training(scenes, build, monkeypatch, mask, sentence):
    from zoo.training import fitting

    monkeypatch.setattr(fitting, "train", lambda *args, **kwargs: pytest.fail("it was trained"))
    with pytest.raises(DataError, match=sentence) as caught:
        zoo.fit(build(), scenes(4, masks={0: mask}), **SHORT)

    assert "\n" not in str(caught.value)


def test_masks_and_values_are_not_taken_for_each_other(scenes, build):
    data = scenes(4)
    classifier = zoo.build("timm:test_resnet", {"type": "classifier", "name": "map", "classes": NAMES}, weights=None)

    with pytest.raises(DataError, match=r"'map' \(segmentation\) learns masks, and column 'map' holds text; read it"):
        zoo.evaluate(build(), zoo.read(data))
    with pytest.raises(
        DataError, match=r"column 'map' holds masks, which the head 'map' \(classifier\) does not learn"
    ):
        zoo.evaluate(classifier, zoo.read(data, masks=["map"]))
    with pytest.raises(UnknownName, match="has no column 'maps'"):
        zoo.evaluate(build(target="maps"), data)


def test_a_backbone_whose_pictures_no_recipe_prepares_is_named(scenes, build):
    from dataclasses import replace

    model = build()
    entry = model.spec.streams["main"]
    model.spec = replace(
        model.spec, streams={"main": replace(entry, backbone=replace(entry.backbone, preprocessing=None))}
    )
    model.backbones["main"].preprocessor = lambda: None

    with pytest.raises(ConfigError, match=r"'map' \(segmentation\) learns masks, and the backbone of 'image' prepares"):
        zoo.evaluate(model, scenes(2))


def test_what_wants_all_labels_at_once_is_refused(scenes, build):
    with pytest.raises(ConfigError, match="learns masks, which are opened row by row"):
        encode(build(), zoo.read(scenes(2), masks=["map"]), {"map": "map"})


def test_an_empty_column_of_masks_is_refused(scenes, build):
    with pytest.raises(DataError, match="column 'map' must have a value in one row or more"):
        zoo.fit(build(), scenes(3, masks=dict.fromkeys(range(3))), **SHORT)


def test_a_picture_turned_by_its_exif_data_has_the_size_that_it_shows(build):
    from zoo.data import BytesSample, PictureSample

    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    scene(0)[0].save(stream, "JPEG", exif=exif)
    mask = PictureSample("the mask", Image.new("L", (64, 80), 1))
    table = Table("one", {"image": (BytesSample("x", stream.getvalue()),)}, {"map": Column("map", "mask", (mask,))})

    row_targets(build(), table, {"map": "map"})
