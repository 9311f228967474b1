"""The presets of all of torchvision's weights as data: pictures, segmentation, detection and clips."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms._presets import VideoClassification

from zoo.errors import ConfigError
from zoo_torchvision.transforms import read_preprocessing

SIZES = ((331, 277), (277, 331), (100, 80), (901, 31))


def presets() -> dict[str, Any]:
    """Give every distinct preset of torchvision's weights, by the name of one that has it."""
    found: dict[str, tuple[str, Any]] = {}
    for name in torchvision.models.list_models():
        for entry in torchvision.models.get_model_weights(name):
            preset = entry.transforms()
            found.setdefault(repr(preset), (f"{name}.{entry.name}", preset))
    return dict(found.values())


PRESETS = presets()
KINDS = {name: type(preset).__name__ for name, preset in PRESETS.items()}


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def frames(count: int, width: int, height: int) -> torch.Tensor:
    rng = np.random.default_rng(width)
    return torch.from_numpy(rng.integers(0, 256, (count, 3, height, width), dtype=np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ImageClassification", "SemanticSegmentation", "ObjectDetection"])
def test_every_preset_for_pictures_is_met_bit_for_bit(kind):
    chosen = [name for name in PRESETS if KINDS[name] == kind]

    assert len(chosen) >= {"ImageClassification": 25}.get(kind, 1)
    for n, name in enumerate(chosen):
        for size in SIZES if len(chosen) < 5 else SIZES[n % 4 :][:1]:
            image = noise(*size)
            assert torch.equal(read_preprocessing(PRESETS[name]).apply(image), PRESETS[name](image)), (name, size)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind == "VideoClassification"])
@pytest.mark.parametrize("size", [(340, 256), (171, 128), (99, 150)], ids=str)
def test_every_preset_for_clips_is_met_bit_for_bit(name, size):
    clip, said = frames(3, *size), read_preprocessing(PRESETS[name])
    pictures = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in clip]

    theirs = PRESETS[name](clip)

    assert torch.equal(said.apply(clip), theirs)
    assert torch.equal(said.apply(pictures), theirs)
    assert theirs.shape == (3, 3, *said.size)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(4, 40), st.integers(4, 40)),
    st.one_of(st.tuples(st.integers(4, 60)), st.tuples(st.integers(4, 60), st.integers(4, 60))),
    st.tuples(st.integers(4, 90), st.integers(4, 90)),
)
def test_any_preset_for_clips_is_met_bit_for_bit(crop, resize, size):
    preset = VideoClassification(crop_size=crop, resize_size=resize)
    clip = frames(2, *size)

    assert torch.equal(read_preprocessing(preset).apply(clip), preset(clip))


def test_the_kinds_of_presets_are_these():
    assert set(KINDS.values()) == {
        "ImageClassification", "SemanticSegmentation", "ObjectDetection", "VideoClassification", "OpticalFlow"
    }  # fmt: skip


def test_optical_flow_is_refused_by_name():
    name = next(name for name, kind in KINDS.items() if kind == "OpticalFlow")

    with pytest.raises(ConfigError, match="OpticalFlow cannot be said as data: it is not for a picture or a clip"):
        read_preprocessing(PRESETS[name])


@pytest.mark.parametrize("kind", ["SemanticSegmentation", "ObjectDetection"])
def test_a_preset_that_keeps_the_shape_gets_one_size_where_one_is_asked_for(kind):
    preset = PRESETS[next(name for name in PRESETS if KINDS[name] == kind)]

    said = read_preprocessing(preset, size=(64, 96))

    assert not read_preprocessing(preset).fixed
    assert said.fixed
    assert said.apply(noise(331, 277)).shape == (3, 64, 96)
