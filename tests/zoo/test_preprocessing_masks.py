"""Masks go where their pictures' pixels go: a picture whose grey is the class, scaled to the nearest, is the judge."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.augmentation import Augmentation
from zoo.errors import DataError, ShapeError
from zoo.preprocessing import Preprocessing

FILL = 250
"""What stands beyond the edge, of the picture and of the mask."""
PLAIN = {"interpolation": "nearest", "mean": (0.0,) * 3, "std": (1.0,) * 3, "scale": 1.0, "fill": (FILL,)}
RECIPES = {
    "torchvision": {"size": (32, 32), "resize": (36,)},
    "odd margins": {"size": (31, 30), "resize": (36,)},
    "padded": {"size": (48, 48), "resize": (31, 47), "fit": "contain"},
    "padded in a corner": {"size": (47, 49), "resize": (40, 40), "fit": "contain", "crop": "corner"},
    "never enlarged": {"size": (60, 64), "resize": None},
    "transformers": {"size": (33, 32), "resize": (40,), "rules": "transformers"},
    "on tensors": {"size": (33, 32), "resize": (40,), "on": "tensor"},
    "on tensors, torchvision": {"size": (33, 32), "resize": (40,), "on": "tensor", "rules": "torchvision"},
    "on tensors, padded": {"size": (51, 50), "resize": (40, 44), "on": "tensor", "fit": "within"},
    "on floats": {"size": (33, 32), "resize": (40,), "on": "float"},
    "any size": {"size": (32, 32), "resize": (45,), "crop": "none", "multiple": 8, "fill": (0,)},
    "two numbers": {"size": (32, 48), "resize": (32, 48), "crop": "none", "fill": (0,)},
    "blue first": {"size": (32, 32), "resize": (36,), "order": "BGR"},
}


def drawn(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 240, size).astype(np.uint8)


@pytest.mark.parametrize("size", [(41, 63), (90, 52), (17, 17)], ids=str)
@pytest.mark.parametrize("config", RECIPES.values(), ids=RECIPES)
def test_a_mask_is_prepared_as_a_picture_that_is_scaled_to_the_nearest_pixel(config, size):
    recipe, labels = Preprocessing(**{**PLAIN, **config}), drawn(size)
    seen = recipe.apply(Image.fromarray(labels).convert("RGB"))

    for mask in (Image.fromarray(labels), torch.from_numpy(labels).to(torch.int32)):
        found = recipe.apply_mask(mask, fill=FILL)
        assert found.dtype == torch.int64
        assert torch.equal(found, seen[1].long())


@pytest.mark.parametrize("on", ["pil", "tensor"])
@pytest.mark.parametrize("interpolation", ["bicubic", "lanczos", "bilinear"])
def test_the_filter_of_the_picture_invents_no_class(interpolation, on):
    rules = "transformers" if on == "tensor" else None
    recipe = Preprocessing(size=(20, 20), resize=(24,), interpolation=interpolation, on=on, rules=rules)
    labels = drawn((50, 40))

    found = recipe.apply_mask(Image.fromarray(labels))

    assert set(found.unique().tolist()) <= set(np.unique(labels).tolist())
    assert torch.equal(found, replace(recipe, interpolation="nearest").apply_mask(Image.fromarray(labels)))


def test_the_fill_of_a_mask_is_its_own():
    recipe = Preprocessing(size=(8, 8), resize=None, fill="mean", crop="corner")

    found = recipe.apply_mask(torch.ones(4, 6, dtype=torch.int64), fill=-100)

    assert torch.equal(found[:4, :6], torch.ones(4, 6).long())
    assert bool((found[4:] == -100).all() and (found[:, 6:] == -100).all())


def test_the_numbers_of_a_palette_count_and_not_its_colours():
    palette = Image.new("P", (6, 5), 2)
    palette.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    deep = Image.fromarray(np.full((5, 6), 70_000, dtype=np.int32))
    bits = Image.new("1", (6, 5), 1)
    recipe = Preprocessing(size=(5, 6), resize=None)

    assert [int(recipe.apply_mask(one).unique()) for one in (palette, deep, bits)] == [2, 70_000, 1]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "F"])
def test_a_picture_of_colours_is_no_mask(mode):
    with pytest.raises(DataError, match=f"pixel values are class numbers, got mode {mode}"):
        Preprocessing(size=(5, 6), resize=None).apply_mask(Image.new(mode, (6, 5)))


@pytest.mark.parametrize("mask", [torch.zeros(5, 6), torch.zeros(1, 5, 6, dtype=torch.int64)], ids=["float", "rank 3"])
def test_a_tensor_of_another_sort_is_no_mask(mask):
    with pytest.raises(ShapeError, match="must be \\(height, width\\) of an integer dtype"):
        Preprocessing(size=(5, 6), resize=None).apply_mask(mask)


# --- views


VIEWS = {
    "crops and mirrors": Augmentation(scale=(0.2, 1.0), flip=0.5, vertical_flip=0.5),
    "mirrors": Augmentation(flip=0.5),
}


@pytest.mark.parametrize("augmentation", VIEWS.values(), ids=VIEWS)
def test_the_mask_of_a_view_is_where_its_picture_is(augmentation):
    labels = drawn((60, 70))
    views = augmentation.views(Preprocessing(**{**PLAIN, "size": (32, 40), "resize": (44,)}))

    for seed in range(12):
        seen = views(Image.fromarray(labels).convert("RGB"), seed)
        assert torch.equal(views.mask(Image.fromarray(labels), seed, fill=FILL), seen[0].long())


def test_colours_and_erasing_leave_a_mask_alone_and_draw_what_they_draw():
    plain = Augmentation(scale=(0.3, 0.9), flip=0.5)
    recipe, mask = Preprocessing(size=(32, 32), resize=(36,)), Image.fromarray(drawn((60, 70)))
    changed = replace(plain, brightness=0.4, hue=0.2, saturation=0.3, contrast=0.2, erasing=1.0)

    for seed in range(6):
        assert torch.equal(plain.views(recipe).mask(mask, seed), changed.views(recipe).mask(mask, seed))


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(policy="trivial", brightness=0.1),
        Augmentation(policy="rand", scale=(0.4, 0.9), flip=0.5, magnitude=6),
        Augmentation(policy="auto"),
    ],
    ids=lambda one: one.policy,
)
def test_what_a_policy_moves_it_moves_in_the_mask_too(augmentation):
    labels = np.zeros((64, 64), dtype=np.uint8)
    labels[8:36, 20:52] = 1
    views = augmentation.views(Preprocessing(**{**PLAIN, "size": (64, 64), "resize": (64,)}))
    moved = 0

    for seed in range(60):
        grey = views(Image.fromarray(60 + 120 * labels).convert("RGB"), seed).mean(dim=0)
        mask = views.mask(Image.fromarray(labels), seed, fill=9)
        assert set(mask.unique().tolist()) <= {0, 1, 9}
        inside, outside = (grey[mask == kind] for kind in (1, 0))
        if not len(inside) or not len(outside):
            continue
        middles = [one.median() for one in (inside, outside)]  # colours change, and may be exchanged
        if middles[0] == middles[1]:
            continue
        spread = torch.cat([(one - middle).abs() for one, middle in zip((inside, outside), middles, strict=True)])
        far = spread > (middles[0] - middles[1]).abs() / 2
        assert far.float().mean() < 0.04, seed  # at the edge alone, where the picture's filter mixes
        moved += bool((mask == 9).any())

    assert moved > 5
