"""Pictures become, bit for bit, what the weights' own transforms make of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from zoo.preprocessing import Preprocessing
from zoo.reference import Reference

pytestmark = pytest.mark.slow

NAMES = torchvision.models.list_models(module=torchvision.models)
TAGGED = [f"{name}.{entry.name}" for name in NAMES for entry in torchvision.models.get_model_weights(name)]


def picture(mode: str, size: tuple[int, int] = (331, 277)) -> Image.Image:
    pixels = np.random.default_rng(4).integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 4), dtype=np.uint8)
    coarse = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    return coarse if mode == "RGBA" else coarse.convert("RGB").convert(mode)


@pytest.fixture(scope="module")
def presets() -> dict[str, Preprocessing]:
    """Read the preprocessing of all weights without building a module."""
    from zoo_torchvision.anatomies import anatomy_of
    from zoo_torchvision.options import read_options

    found = {}
    for full in TAGGED:
        name, tag = full.split(".")
        entry = torchvision.models.get_model_weights(name)[tag]
        found[full], _ = read_options(Reference("torchvision", full), name, anatomy_of(name), entry, tag)
    return found


def test_every_preset_of_the_library_is_met_bit_for_bit(presets):
    image, done = picture("RGB"), set()

    for full, preprocessing in presets.items():
        if preprocessing not in done:
            done.add(preprocessing)
            name, tag = full.split(".")
            theirs = torchvision.models.get_model_weights(name)[tag].transforms()(image)
            assert torch.equal(preprocessing.apply(image), theirs), full
    assert len(done) > 15


def test_two_weights_of_one_name_have_the_same_preset_as_in_the_library(presets):
    for full, preprocessing in presets.items():
        name, tag = full.split(".")
        preset = torchvision.models.get_model_weights(name)[tag].transforms()
        assert preprocessing.size == (preset.crop_size[0],) * 2
        assert preprocessing.resize == (preset.resize_size[0],)
        assert preprocessing.interpolation == preset.interpolation.value
        assert preset.antialias is True


@pytest.mark.parametrize("size", [(331, 277), (277, 331), (100, 80), (256, 256), (900, 31)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1"])
def test_pictures_of_every_mode_and_shape_agree_with_their_rgb_form(provider, mode, size):
    image = picture(mode, size)
    spec = provider.spec(Reference("torchvision", "resnet50.IMAGENET1K_V2"))
    transforms = torchvision.models.ResNet50_Weights.IMAGENET1K_V2.transforms()

    assert torch.equal(spec.preprocessing.apply(image), transforms(image.convert("RGB")))


def test_without_a_tag_the_default_weights_preset_holds(provider):
    untagged = provider.spec(Reference("torchvision", "resnet50"))
    tagged = provider.spec(Reference("torchvision", "resnet50.IMAGENET1K_V2"))

    assert untagged.preprocessing == tagged.preprocessing


def test_another_picture_size_keeps_the_share_of_the_crop(provider):
    spec = provider.spec(Reference("torchvision", "vit_b_32.IMAGENET1K_V1", options={"img_size": 448}))

    assert spec.preprocessing.size == (448, 448)
    assert spec.preprocessing.resize == (512,)
    assert spec.inputs[0].size == (448, 448)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_get_the_mean_of_the_statistics(provider, channels):
    spec = provider.spec(Reference("torchvision", "resnet18", options={"in_channels": channels}))

    assert spec.inputs[0].channels == channels
    assert spec.preprocessing.mean == pytest.approx((0.449,) * channels)
    assert spec.preprocessing.std == pytest.approx((0.226,) * channels)
