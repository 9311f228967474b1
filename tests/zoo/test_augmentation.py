"""Training views: torchvision's own operations, ended as the preprocessing ends, and decided by a seed."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter
from torchvision.transforms import InterpolationMode, v2

from zoo.augmentation import Augmentation
from zoo.errors import ConfigError, DataError, UnknownName
from zoo.preprocessing import Preprocessing
from zoo.strict import from_json, to_json

RECIPE = Preprocessing(size=(48, 40), resize=(56,), interpolation="bilinear")
CHANCE = st.floats(0, 1)
POLICIES = [
    {"policy": "trivial"}, {"policy": "rand"}, {"policy": "rand", "magnitude": 30}, {"policy": "auto"},
    {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}, {"flip": 1.0}, {"vertical_flip": 1.0},
    {"erasing": 1.0}, {"grey": 1.0}, {"blur": 1.0}, {"solarize": 1.0},
    {"scale": (0.2, 0.7)}, {"scale": (0.2, 0.7), "ratio": (2.0, 3.0)},
]  # fmt: skip


def picture(mode: str = "RGB", size: tuple[int, int] = (91, 67)) -> Image.Image:
    pixels = np.random.default_rng(2).integers(0, 256, (size[1] // 4 + 1, size[0] // 4 + 1, 4), dtype=np.uint8)
    smooth = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    if mode == "I;16":
        return Image.fromarray(np.asarray(smooth.convert("L")).astype(np.uint16) * 257)
    return smooth if mode == "RGBA" else smooth.convert("RGB").convert(mode)


@st.composite
def augmentations(draw: st.DrawFn) -> Augmentation:
    def rising(low: float, high: float) -> tuple[float, float]:
        return tuple(sorted(draw(st.tuples(st.floats(low, high), st.floats(low, high)))))

    policy = draw(st.sampled_from([None, "trivial", "rand", "auto"]))
    return Augmentation(
        scale=rising(0.05, 1) if draw(st.booleans()) else None,
        ratio=rising(0.3, 3),
        flip=draw(CHANCE),
        vertical_flip=draw(CHANCE),
        brightness=draw(CHANCE),
        contrast=draw(CHANCE),
        saturation=draw(CHANCE),
        hue=draw(st.floats(0, 0.5)),
        jitter=draw(CHANCE),
        grey=draw(CHANCE),
        blur=draw(CHANCE),
        sigma=rising(0.1, 3),
        solarize=draw(CHANCE),
        policy=policy,
        magnitude=draw(st.one_of(st.none(), st.integers(0, 30))) if policy == "rand" else None,
        erasing=draw(CHANCE),
    )


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(augmentations())
def test_an_augmentation_comes_back_from_json_as_it_was(augmentation):
    assert from_json(Augmentation, to_json(augmentation)) == augmentation


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(augmentations(), st.integers(0, 2**63 - 1), st.integers(8, 200), st.integers(8, 200))
def test_a_view_has_the_backbones_size_and_equal_seeds_give_equal_views(augmentation, seed, width, height):
    views = augmentation.views(RECIPE)

    one, again = views(picture(size=(width, height)), seed), views(picture(size=(width, height)), seed)

    assert torch.equal(one, again)
    assert one.shape == (3, 48, 40)
    assert one.dtype == torch.float32
    assert bool(one.isfinite().all())


@pytest.mark.slow
def test_the_standard_views_are_those_of_torchvisions_reference_recipe():
    reference = v2.Compose(
        [
            v2.RandomResizedCrop((48, 40), interpolation=InterpolationMode.BILINEAR, antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(RECIPE.mean, RECIPE.std),
            v2.RandomErasing(p=0.1),
        ]
    )
    views = Augmentation.preset("standard").views(RECIPE)

    for seed in range(40):
        torch.manual_seed(seed)
        expected = reference(picture())
        torch.testing.assert_close(views(picture(), seed), expected)
        torch.manual_seed(seed)
        torch.testing.assert_close(views(picture()), expected)


def test_the_views_of_simclr_are_those_of_torchvisions_operations_with_pillows_blur():
    jitter = v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8)
    before = [
        v2.RandomResizedCrop((48, 40), interpolation=InterpolationMode.BILINEAR, antialias=True),
        v2.RandomHorizontalFlip(0.5),
        jitter,
        v2.RandomGrayscale(0.2),
    ]
    after = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(RECIPE.mean, RECIPE.std)])
    views = Augmentation.preset("simclr").views(RECIPE)
    blurred = 0

    for seed in range(40):
        torch.manual_seed(seed)
        image = v2.Compose(before)(picture())
        drawn, share = torch.rand(2).tolist()
        if drawn < 0.5:
            image, blurred = image.filter(ImageFilter.GaussianBlur(0.1 + 1.9 * share)), blurred + 1
        torch.testing.assert_close(views(picture(), seed), after(image))
    assert 10 < blurred < 30


def test_grey_views_have_no_colour_solarised_ones_are_inverted_where_bright_and_blurred_ones_are_gaussian():
    whole = Preprocessing(size=(67, 91), resize=None, mean=(0.0,) * 3, std=(1.0,) * 3)
    given = np.asarray(picture()).astype(np.float64)

    def view(**changes):
        return Augmentation(**changes).views(whole)(picture(), 1).permute(1, 2, 0).numpy() * 255

    grey, solarised, blurred = view(grey=1.0), view(solarize=1.0), view(blur=1.0, sigma=(1.5, 1.5))

    luma = given @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey - luma[..., None]).max() < 1.01
    assert np.array_equal(solarised.round(), np.where(given >= 128, 255 - given, given))
    assert np.abs(blurred - gaussian_filter(given, (1.5, 1.5, 0), mode="nearest"))[8:-8, 8:-8].max() < 4
    assert np.abs(blurred - given)[8:-8, 8:-8].max() > 10


@pytest.mark.parametrize("name", ["jitter", "grey", "blur", "solarize"])
def test_a_chance_is_how_often_a_view_is_changed(name):
    changes = {name: 0.3} | ({"brightness": 0.8} if name == "jitter" else {})
    views, plain = Augmentation(**changes).views(RECIPE), RECIPE.apply(picture())

    changed = sum(not torch.equal(views(picture(), seed), plain) for seed in range(300))

    assert 60 <= changed <= 120
    assert all(torch.equal(Augmentation(**changes | {name: 0.0}).views(RECIPE)(picture(), s), plain) for s in range(9))


def test_a_view_may_have_a_size_of_its_own_and_its_mask_has_it_too():
    recipe = Preprocessing(size=(48, 40), resize=(56,), interpolation="nearest", mean=(0.0,) * 3, std=(1.0,) * 3)
    small = Augmentation(scale=(0.1, 0.4), flip=0.5, size=(24, 16)).views(recipe)
    other = Augmentation(scale=(0.1, 0.4), flip=0.5).views(replace(recipe, size=(24, 16)))
    halves = Image.fromarray(np.tile(np.arange(90) >= 45, (60, 1)).astype(np.uint8) * 255)

    for seed in range(20):
        view = small(halves.convert("RGB"), seed)
        assert view.shape == (3, 24, 16)
        assert torch.equal(view, other(halves.convert("RGB"), seed))
        assert torch.equal(small.mask(halves, seed), (view[0] * 255).round().long())


def test_masks_of_views_whose_colours_change_follow_what_moves_alone():
    moving = {"scale": (0.2, 0.8), "flip": 0.5, "vertical_flip": 0.5}
    colours = {"brightness": 0.4, "jitter": 0.5, "grey": 0.5, "blur": 0.5, "solarize": 0.5}
    mask = torch.arange(67 * 91).reshape(67, 91) % 200
    for seed in range(12):
        plain = Augmentation(**moving).views(RECIPE).mask(mask, seed)
        assert torch.equal(Augmentation(**moving, **colours).views(RECIPE).mask(mask, seed), plain)


def test_a_chance_that_nothing_depends_on_leaves_an_augmentation_idle():
    assert Augmentation(jitter=0.5, sigma=(1.0, 1.0)).idle
    assert not Augmentation(grey=0.1).idle


def test_no_augmentation_is_the_preprocessing_itself():
    none = Augmentation.preset("none")

    assert none.idle
    assert none == Augmentation() == Augmentation.of(None)
    assert torch.equal(none.views(RECIPE)(picture(), 3), RECIPE.apply(picture()))
    assert not Augmentation.preset("light").idle


@pytest.mark.parametrize("changes", POLICIES, ids=str)
def test_each_field_varies_the_views(changes):
    views = Augmentation(**changes).views(RECIPE)

    seen = [views(picture(), seed) for seed in range(12)]

    assert any(not torch.equal(view, RECIPE.apply(picture())) for view in seen)


def test_a_flip_of_chance_1_is_the_mirror_image():
    whole = Preprocessing(size=(67, 91), resize=None)
    flat = whole.apply(picture())

    assert torch.equal(Augmentation(flip=1.0).views(whole)(picture(), 0), flat.flip(-1))
    assert torch.equal(Augmentation(vertical_flip=1.0).views(whole)(picture(), 0), flat.flip(-2))


@pytest.mark.parametrize(
    "recipe",
    [
        replace(RECIPE, order="BGR"),
        replace(RECIPE, scale=1.0, mean=(127.5,) * 3, std=(127.5,) * 3),
        replace(RECIPE, on="tensor"),
        replace(RECIPE, on="float", antialias=False),
        replace(RECIPE, resize=(48, 40), fit="contain", fill=(120,)),
        replace(RECIPE, resize=(48, 80), fit="limit", crop="none", multiple=8),
    ],
    ids=["BGR", "0 to 255", "on tensors", "on floats", "padded", "no fixed size"],
)
def test_a_view_ends_as_the_preprocessing_ends(recipe):
    flat = Image.new("RGB", (80, 64), (200, 100, 50))

    view = Augmentation.preset("light").views(recipe)(flat, 1)

    end = replace(recipe, resize=None, fit="plain", multiple=1).apply(flat.resize((40, 48)))
    torch.testing.assert_close(view, end)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "LA", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_every_mode_have_views_and_stay_as_they_are(mode, channels):
    views = Augmentation(
        **{"scale": (0.2, 1.0), "policy": "trivial", "brightness": 0.2, "hue": 0.1, "saturation": 0.2, "erasing": 0.5},
        **{"jitter": 0.8, "grey": 0.5, "blur": 0.5, "solarize": 0.5},
    )
    given = picture(mode)
    before = given.tobytes()

    for seed in range(5):
        assert views.views(RECIPE.with_channels(channels))(given, seed).shape == (channels, 48, 40)
    assert given.tobytes() == before


def test_a_transparent_picture_is_laid_over_white_where_the_preprocessing_does_so():
    clear = Image.new("RGBA", (60, 60), (0, 0, 0, 0))
    light = Augmentation.preset("light")

    dark, white = (light.views(replace(RECIPE, alpha=alpha))(clear, 0) for alpha in ("drop", "white"))

    assert float(dark.max()) < 0 < float(white.min())


def test_seeds_leave_the_global_generator_as_it_was_and_a_generator_gives_one_view_after_another():
    views, before = Augmentation.preset("standard").views(RECIPE), torch.get_rng_state()
    generator = torch.Generator().manual_seed(4)

    first, second = views(picture(), generator), views(picture(), generator)

    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first, second)
    assert torch.equal(views(picture(), torch.Generator().manual_seed(4)), first)


def test_views_travel_to_a_worker():
    views = Augmentation(policy="auto", scale=(0.2, 1.0)).views(RECIPE)

    assert torch.equal(pickle.loads(pickle.dumps(views))(picture(), 9), views(picture(), 9))


@pytest.mark.parametrize(
    "given", [torch.zeros(3, 8, 8), [Image.new("RGB", (8, 8))], "cat.jpg"], ids=["tensor", "clip", "path"]
)
def test_what_is_no_picture_is_refused(given):
    with pytest.raises(DataError, match="takes single Pillow pictures"):
        Augmentation.preset("light").views(RECIPE)(given, 0)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"scale": (0.0, 1.0)}, "scale must be"),
        ({"scale": (0.9, 0.1)}, "scale must be"),
        ({"scale": (0.5, 1.5)}, "scale must be"),
        ({"ratio": (0.0, 1.0)}, "ratio must be"),
        ({"ratio": (2.0, 1.0)}, "ratio must be"),
        ({"flip": 1.5}, "flip must be a chance"),
        ({"vertical_flip": -0.1}, "vertical_flip must be a chance"),
        ({"erasing": float("nan")}, "erasing must be a chance"),
        ({"jitter": 1.1}, "jitter must be a chance"),
        ({"grey": -0.1}, "grey must be a chance"),
        ({"blur": 2.0}, "blur must be a chance"),
        ({"solarize": float("nan")}, "solarize must be a chance"),
        ({"sigma": (0.0, 1.0)}, "sigma must be two numbers above 0"),
        ({"sigma": (2.0, 1.0)}, "sigma must be two numbers above 0"),
        ({"size": (8, 8)}, "size must be two numbers of 1 or more and needs a scale"),
        ({"size": (8, 0), "scale": (0.1, 1.0)}, "size must be two numbers of 1 or more"),
        ({"brightness": -1.0}, "brightness must be 0 or more"),
        ({"contrast": float("inf")}, "contrast must be 0 or more"),
        ({"hue": 0.6}, r"hue must be in \[0, 0.5\]"),
        ({"policy": "mixup"}, "policy must be trivial, rand, auto or None"),
        ({"policy": "rand", "magnitude": 31}, "magnitude must be 0 to 30"),
        ({"policy": "trivial", "magnitude": 5}, "needs the policy 'rand'"),
        ({"magnitude": 5}, "needs the policy 'rand'"),
    ],
    ids=str,
)
def test_a_number_out_of_its_range_is_refused_in_one_sentence(changes, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        Augmentation(**changes)

    assert str(caught.value).startswith("Augmentation: ")


def test_a_preset_that_does_not_exist_is_named_with_the_nearest():
    with pytest.raises(UnknownName, match="no augmentation 'lihgt'; it is one of none, light, standard, simclr"):
        Augmentation.of("lihgt")
    with pytest.raises(ConfigError, match="must be an Augmentation or the name of a preset"):
        Augmentation.of(3)
    with pytest.raises(ConfigError, match="flips"):
        from_json(Augmentation, {"flips": 0.5})
