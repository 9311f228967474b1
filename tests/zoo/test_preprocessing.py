"""Preprocessing: the very tensor that timm's and torchvision's own transforms give."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms._presets import ImageClassification
from torchvision.transforms.functional import InterpolationMode

from zoo.errors import ConfigError, DataError, ShapeError
from zoo.preprocessing import Preprocessing
from zoo.reference import Reference
from zoo_timm.provider import TimmProvider

# Centre and squash, bicubic and bilinear, crops of 0.875 to 1.0, ImageNet's, Inception's and CLIP's statistics.
TIMM = (
    "resnet18.a1_in1k",
    "mobilenetv3_large_100.ra_in1k",
    "efficientnet_lite0.ra_in1k",
    "tf_efficientnet_b0.in1k",
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "vit_base_patch32_clip_224.laion400m_e32",
    "tf_efficientnetv2_b3.in21k_ft_in1k",
    "test_resnet.r160_in1k",
    "dla34.in1k",
    "levit_128s.fb_dist_in1k",
)
SIZES = ((300, 200), (97, 331), (224, 224), (40, 30), (513, 7))


def photograph(size=(300, 200), mode="RGB") -> Image.Image:
    """A noisy picture in a mode; palettes and alpha included."""
    rng = np.random.default_rng(size[0])
    pixels = rng.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    rgba = Image.fromarray(pixels)
    if mode == "P with alpha":
        picture = rgba.convert("RGB").quantize(16)
        picture.info["transparency"] = bytes(range(0, 256, 16))
        return picture
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (size[1], size[0]), dtype=np.uint16))
    return rgba if mode == "RGBA" else rgba.convert("RGB").convert(mode)


def of_timm(name: str) -> tuple[Preprocessing, object]:
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False, num_classes=0)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model), is_training=False)
    return TimmProvider().spec(Reference("timm", name)).preprocessing, transform


@pytest.fixture(scope="module", params=TIMM)
def timm_pair(request):
    return of_timm(request.param)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_tensor_is_bit_equal_to_that_of_timm(timm_pair, size):
    ours, theirs = timm_pair
    picture = photograph(size)

    assert torch.equal(ours.apply(picture), theirs(picture))


def test_the_sample_of_timm_covers_both_crops_and_both_filters():
    configs = [timm.get_pretrained_cfg(name) for name in TIMM]

    assert {config.crop_mode for config in configs} >= {"center", "squash"}
    assert {config.interpolation for config in configs} >= {"bicubic", "bilinear"}
    assert len({config.mean for config in configs}) >= 3


@pytest.fixture(scope="module")
def mobilenet():
    return of_timm("mobilenetv3_large_100.ra_in1k")


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "P with alpha", "RGBA", "LA", "1", "CMYK", "YCbCr", "HSV"])
def test_a_picture_of_any_mode_is_what_its_rgb_version_is_to_timm(mobilenet, mode):
    ours, theirs = mobilenet
    picture = photograph(mode=mode)

    flat = picture.convert("RGBA").convert("RGB") if mode == "P with alpha" else picture.convert("RGB")
    assert torch.equal(ours.apply(picture), theirs(flat))


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_a_16_bit_picture_is_its_high_bytes(mobilenet, mode):
    ours, theirs = mobilenet
    deep = photograph(mode="I;16")
    picture = deep.convert("I") if mode == "I" else deep

    high = Image.fromarray((np.asarray(deep) >> 8).astype(np.uint8)).convert("RGB")
    assert torch.equal(ours.apply(picture), theirs(high))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK"])
def test_one_channel_is_the_grey_version(mode):
    recipe = Preprocessing(size=(32, 32), resize=None, mean=(0.5,), std=(0.5,), channels=1)
    picture = photograph((32, 32), mode)

    grey = torch.from_numpy(np.asarray(picture.convert("L")).copy())[None].float() / 255
    torch.testing.assert_close(recipe.apply(picture), (grey - 0.5) / 0.5)


def test_the_picture_itself_is_not_changed(mobilenet):
    picture = photograph(mode="P")
    before = picture.copy()
    mobilenet[0].apply(picture)

    assert picture.mode == "P"
    assert picture.tobytes() == before.tobytes()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "lanczos"])
@pytest.mark.parametrize(("crop", "scale"), [(224, 256), (64, 64), (96, 70)])
def test_the_tensor_is_bit_equal_to_that_of_torchvision(interpolation, crop, scale):
    theirs = ImageClassification(
        crop_size=crop, resize_size=scale, interpolation=InterpolationMode(interpolation), antialias=True
    )
    ours = Preprocessing(size=(crop, crop), resize=(scale,), interpolation=interpolation)

    for size in SIZES:
        picture = photograph(size)
        assert torch.equal(ours.apply(picture), theirs(picture)), size


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 80), st.integers(1, 80), st.integers(1, 90))
def test_the_size_is_the_one_that_is_promised_whatever_comes(width, height, rows, columns, scale):
    recipe = Preprocessing(size=(rows, columns), resize=(scale,))

    tensor = recipe.apply(Image.new("RGB", (width, height)))

    assert tensor.shape == (3, rows, columns)
    assert tensor.dtype == torch.float32


def test_two_numbers_squash_the_picture_to_that_height_and_width():
    recipe = Preprocessing(size=(10, 20), resize=(10, 20), mean=(0.0,) * 3, std=(1.0,) * 3)
    picture = photograph((60, 50))

    squashed = np.asarray(picture.resize((20, 10), Image.Resampling.BICUBIC)).copy()
    assert torch.equal(recipe.apply(picture), torch.from_numpy(squashed).permute(2, 0, 1).float() / 255)


def test_a_ready_tensor_passes_unchanged():
    tensor = torch.randn(3, 17, 19)

    assert Preprocessing(size=(8, 8), resize=None).apply(tensor) is tensor


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(8, 8), torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)],
    ids=["rank 2", "rank 4", "one channel", "bytes"],
)
def test_a_tensor_that_does_not_fit_is_refused_with_what_came(tensor):
    with pytest.raises(ShapeError, match=r"must be \(3, height, width\) of a float dtype") as caught:
        Preprocessing(size=(8, 8), resize=None).apply(tensor)

    assert str(tuple(tensor.shape)) in str(caught.value)


def test_a_picture_cannot_become_four_channels():
    recipe = Preprocessing(size=(8, 8), resize=None, mean=(0.5,) * 4, std=(0.5,) * 4, channels=4)

    with pytest.raises(DataError, match="cannot become 4 channels; give tensors of"):
        recipe.apply(photograph())


def test_a_picture_of_a_mode_without_a_conversion_is_refused():
    grey = Preprocessing(size=(8, 8), resize=None, mean=(0.5,), std=(0.5,), channels=1)

    with pytest.raises(DataError, match="LAB"):
        grey.apply(Image.new("LAB", (8, 8)))


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": (0.5,)},
        {"std": (0.5, 0.5)},
        {"channels": 1},
        {"std": (0.5, 0.0, 0.5)},
        {"std": (0.5, -1.0, 0.5)},
        {"size": (0, 8)},
        {"resize": (0,)},
        {"resize": ()},
        {"resize": (8, 8, 8)},
    ],
    ids=str,
)
def test_numbers_that_do_not_go_together_are_refused(changes):
    with pytest.raises(ConfigError, match="Preprocessing: "):
        Preprocessing(**{"size": (8, 8), "resize": (8,), **changes})
