"""The recipe as data: every value of it survives JSON, what clashes is refused, and each field is honoured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from zoo.errors import ConfigError, DataError, ShapeError
from zoo.preprocessing import Preprocessing
from zoo.preprocessing.geometry import RULES
from zoo.strict import from_json, to_json

SIDE = st.integers(1, 90)
LEVEL = st.integers(0, 255)
NUMBER = st.floats(-300, 300)
DEVIATION = st.floats(1e-3, 300)


@st.composite
def recipes(draw: st.DrawFn, channels: tuple[int, ...] = (1, 3)) -> Preprocessing:
    """Draw a recipe from the whole space of values."""
    count = draw(st.sampled_from(channels))
    on = draw(st.sampled_from(["pil", "tensor", "float"]))
    antialias = on == "pil" or draw(st.booleans())
    rules = draw(st.sampled_from([None, "torchvision", "transformers"]))
    eight_bits = on == "tensor" and antialias and rules != "torchvision"
    filters = ["box", "hamming", "lanczos"] if on == "pil" else ["lanczos"] * eight_bits
    fit = draw(st.sampled_from(sorted(RULES)))
    pair = st.tuples(SIDE, SIDE)
    resize = draw(pair if fit != "plain" else st.one_of(st.none(), st.tuples(SIDE), pair))
    multiple = draw(st.integers(1, 20))
    crop = draw(st.sampled_from(["center", "corner", "none"]))
    fills = st.one_of(st.just("mean"), st.tuples(LEVEL), st.tuples(*[LEVEL] * count))
    return Preprocessing(
        size=draw(pair),
        resize=resize,
        fit=fit,
        multiple=multiple,
        snap=draw(st.sampled_from(["down", "up"])) if multiple > 1 else "down",
        interpolation=draw(st.sampled_from(["nearest", "bilinear", "bicubic", *filters])),
        on=on,
        antialias=antialias,
        crop=crop,
        fill=draw(fills) if crop != "none" else (0,),
        scale=draw(st.sampled_from([1 / 255, 1.0, 1 / 127.5, 0.0078])),
        mean=draw(st.tuples(*[NUMBER] * count)),
        std=draw(st.tuples(*[DEVIATION] * count)),
        channels=count,
        order=draw(st.sampled_from(["RGB", "BGR"])) if count == 3 else "RGB",
        alpha=draw(st.sampled_from(["drop", "white"])),
        rules=rules,
    )


def noise(width: int, height: int, bands: int = 3) -> Image.Image:
    rng = np.random.default_rng(width * 100 + height)
    return Image.fromarray(rng.integers(0, 256, (height, width, bands), dtype=np.uint8))


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(recipes(tuple(range(1, 14))))
def test_a_recipe_comes_back_from_json_as_it_was(recipe):
    assert from_json(Preprocessing, to_json(recipe)) == recipe


def test_a_recipe_written_before_there_were_more_fields_still_reads():
    old = {
        "size": [224, 224], "resize": [256], "interpolation": "bilinear", "on": "tensor", "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5], "channels": 3,
    }  # fmt: skip

    assert from_json(Preprocessing, old) == Preprocessing(
        size=(224, 224), resize=(256,), interpolation="bilinear", on="tensor", mean=(0.5,) * 3, std=(0.5,) * 3
    )


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(recipes(), st.sampled_from([(37, 50), (1, 1), (90, 20)]))
def test_every_recipe_gives_the_size_that_it_promises_in_finite_floats(recipe, size):
    tensor = recipe.apply(noise(*size))

    assert tensor.dtype == torch.float32
    assert tensor.shape[0] == recipe.channels
    assert bool(tensor.isfinite().all())
    if recipe.crop != "none":
        assert tensor.shape[1:] == recipe.size


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(recipes(), st.lists(st.tuples(SIDE, SIDE), min_size=2, max_size=4))
def test_a_fixed_recipe_gives_one_size_for_pictures_of_any(recipe, sizes):
    shapes = {tuple(recipe.apply(noise(*size)).shape) for size in sizes}

    assert len(shapes) == 1 or not recipe.fixed


@settings(max_examples=60, deadline=None)
@given(recipes(), st.integers(1, 3))
def test_a_clip_is_its_frames_one_behind_the_other(recipe, count):
    frames = [noise(23, 31 + 0 * n).rotate(90 * n) for n in range(count)]
    frames = [frame.resize((23, 31)) for frame in frames]

    clip = recipe.apply(frames)

    assert clip.shape[:2] == (recipe.channels, count)
    for n, frame in enumerate(frames):
        torch.testing.assert_close(clip[:, n], recipe.apply(frame))


def test_eight_bit_frames_are_taken_as_pictures_are():
    frames = [noise(40, 30), noise(40, 30).rotate(180)]
    tensor = torch.stack([torch.from_numpy(np.array(frame)).permute(2, 0, 1) for frame in frames])

    for on in ("pil", "tensor", "float"):
        recipe = Preprocessing(size=(16, 20), resize=(18,), on=on)
        assert torch.equal(recipe.apply(tensor), recipe.apply(frames)), on


def test_a_clip_without_frames_or_with_frames_of_several_sizes_is_refused():
    recipe = Preprocessing(size=(8, 8), resize=(8,))

    with pytest.raises(DataError, match="at least one frame"):
        recipe.apply([])
    with pytest.raises(DataError, match="must all have one size"):
        recipe.apply([noise(9, 9), noise(9, 8)])


def test_a_ready_clip_passes_and_a_batch_of_pictures_does_not():
    recipe, clip = Preprocessing(size=(8, 8), resize=None), torch.zeros(3, 5, 8, 8)

    assert recipe.apply(clip) is clip
    with pytest.raises(ShapeError, match="must be"):
        recipe.apply(torch.zeros(5, 3, 8, 8))


# Each field, with a value that must change what comes out.
HONOURED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "fit": ({"resize": (20, 40)}, {"fit": "contain"}),
    "multiple": ({"resize": (21,), "crop": "none"}, {"multiple": 8}),
    "snap": ({"resize": (21,), "crop": "none", "multiple": 8}, {"snap": "up"}),
    "interpolation": ({"resize": (20,)}, {"interpolation": "bilinear"}),
    "antialias": ({"resize": (20,), "on": "tensor"}, {"antialias": False}),
    "on": ({"resize": (20,), "interpolation": "bicubic"}, {"on": "float"}),
    "crop": ({"resize": (30,)}, {"crop": "corner"}),
    "fill": ({"resize": (10, 10)}, {"fill": (200,)}),
    "fill by channel": ({"resize": (10, 10)}, {"fill": (200, 0, 7)}),
    "fill mean": ({"resize": (10, 10)}, {"fill": "mean"}),
    "scale": ({"resize": (20,)}, {"scale": 1.0}),
    "mean": ({"resize": (20,)}, {"mean": (0.1, 0.2, 0.3)}),
    "std": ({"resize": (20,)}, {"std": (0.1, 0.2, 0.3)}),
    "order": ({"resize": (20,)}, {"order": "BGR"}),
    "alpha": ({"resize": (20,)}, {"alpha": "white"}),
}


# Pillow always filters, and the path itself is a change on the other two only.
PAIRS = [
    (what, on) for what in HONOURED for on in ("pil", "tensor", "float") if (what, on) not in
    {("antialias", "pil"), ("on", "float")}
]  # fmt: skip


@pytest.mark.parametrize(("what", "on"), PAIRS)
def test_every_field_changes_what_comes_out_on_every_path(what, on):
    base, change = HONOURED[what]
    if (on == "pil" and what == "antialias") or (what == "on" and on == "float"):
        pytest.skip("this pair is refused, or is the change itself")
    plain = Preprocessing(**{"size": (24, 17), **base, "on": on})
    changed = replace(plain, **change)
    picture = noise(61, 47, 4)

    one, other = plain.apply(picture), changed.apply(picture)

    assert one.shape != other.shape or not torch.allclose(one, other)


@pytest.mark.parametrize("on", ["pil", "tensor"])
def test_whose_rules_hold_decides_where_an_odd_margin_lies(on):
    picture = noise(63, 63)
    plain = Preprocessing(size=(60, 60), resize=None, on=on)
    left = [float(replace(plain, rules=rules).apply(picture)[0, 0, 0]) for rules in ("torchvision", "transformers")]

    pixels = np.asarray(picture)[..., 0] / 255
    expected = [(pixels[n, n] - 0.485) / 0.229 for n in (2, 1)]  # 1.5 is rounded to even, or down
    assert left == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("on", ["pil", "tensor", "float"])
@pytest.mark.parametrize(("scale", "middle"), [(1 / 255, 0.5), (1.0, 127.5)])
def test_the_numbers_are_the_closed_form_on_every_path(on, scale, middle):
    recipe = Preprocessing(
        size=(5, 7), resize=None, on=on, scale=scale, mean=(middle,) * 3, std=(middle, 2 * middle, 1.0), order="BGR"
    )
    picture = noise(7, 5)

    pixels = torch.from_numpy(np.array(picture)).double().permute(2, 0, 1).flip(0) * scale
    expected = (pixels - middle) / torch.tensor([middle, 2 * middle, 1.0])[:, None, None]
    torch.testing.assert_close(recipe.apply(picture).double(), expected, rtol=1e-5, atol=1e-5)


def test_the_level_of_the_mean_fills_with_zeros_after_normalising():
    recipe = Preprocessing(size=(6, 8), resize=None, crop="corner", fill="mean")

    tensor = recipe.apply(noise(5, 4))

    assert bool((tensor[:, 4:] == 0).all())
    assert bool((tensor[:, :, 5:] == 0).all())
    assert bool((tensor[:, :4, :5] != 0).any())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"fit": "cover"}, "needs two numbers"),
        ({"fit": "limit", "resize": None}, "needs two numbers"),
        ({"multiple": 0}, "multiple must be 1 or more"),
        ({"snap": "up"}, "needs a multiple"),
        ({"fill": ()}, "fill must be"),
        ({"fill": (0, 0)}, "fill must be"),
        ({"fill": (256,)}, "fill must be"),
        ({"fill": (-1,)}, "fill must be"),
        ({"crop": "none", "fill": (9,)}, "fill needs a crop"),
        ({"crop": "none", "fill": "mean"}, "fill needs a crop"),
        ({"antialias": False}, "antialias=False needs on='tensor'"),
        ({"on": "tensor", "interpolation": "box"}, "'box' needs on='pil'"),
        ({"on": "float", "interpolation": "lanczos"}, "'lanczos' needs on='pil'"),
        ({"on": "tensor", "interpolation": "lanczos", "antialias": False}, "'lanczos' needs on='pil'"),
        ({"on": "tensor", "interpolation": "lanczos", "rules": "torchvision"}, "'lanczos' needs on='pil'"),
        ({"order": "BGR", "channels": 1, "mean": (0.5,), "std": (0.5,)}, "'BGR' needs 3 channels"),
        ({"scale": 0.0}, "above 0"),
        ({"scale": float("nan")}, "must be finite"),
        ({"mean": (0.5, float("inf"), 0.5)}, "must be finite"),
    ],
    ids=str,
)
def test_what_clashes_is_refused_in_one_sentence(changes, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        Preprocessing(**{"size": (8, 8), "resize": (8,), **changes})

    assert str(caught.value).startswith("Preprocessing: ")


@pytest.mark.parametrize("key", ["sizes", "crop_pct", "Fit"])
def test_a_field_that_nobody_knows_is_refused_in_json(key):
    with pytest.raises(ConfigError, match=key):
        from_json(Preprocessing, {"size": [8, 8], "resize": [8], key: 1})


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(recipes(), st.tuples(SIDE, SIDE))
def test_at_another_size_a_recipe_gives_that_size(recipe, size):
    moved = recipe.at(size)

    assert moved.fixed
    assert moved.apply(noise(31, 23)).shape == (recipe.channels, *size)
    assert moved.at(size) == moved


def test_at_another_size_the_share_of_the_crop_stays():
    assert Preprocessing(size=(224, 224), resize=(256,)).at((448, 448)).resize == (512,)
    assert Preprocessing(size=(32, 48), resize=(40, 60)).at((64, 48)).resize == (80, 60)


@settings(max_examples=60, deadline=None)
@given(recipes(), st.integers(1, 13))
def test_with_other_channels_each_has_the_mean_of_the_statistics(recipe, channels):
    assume(channels != recipe.channels)

    changed = recipe.with_channels(channels)

    assert changed.mean == pytest.approx((sum(recipe.mean) / recipe.channels,) * channels)
    assert changed.std == pytest.approx((sum(recipe.std) / recipe.channels,) * channels)
    assert changed.channels == channels


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop": "center"}, "needs crop='none'"),
        ({"resize": (7840, 784)}, "takes the least number of pixels before the largest"),
        ({"resize": (784,)}, "needs two numbers in resize"),
    ],
)
def test_a_budget_of_pixels_has_a_least_and_a_largest_and_is_not_cropped(fields, message):
    with pytest.raises(ConfigError, match=message):
        Preprocessing(**{"size": (28, 28), "resize": (784, 7840), "fit": "budget", "crop": "none", **fields})
