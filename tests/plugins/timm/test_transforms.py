"""timm's evaluation transforms as data, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from zoo.reference import Reference
from zoo_timm.provider import TimmProvider
from zoo_timm.transforms import as_preprocessing

SIZES = ((331, 277), (277, 331), (41, 30), (513, 7), (224, 224))


def picture(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def configurations() -> dict[str, dict[str, Any]]:
    """Give every distinct data configuration of timm's pretrained tags, by one tag that has it."""
    found: dict[tuple[Any, ...], str] = {}
    for name in timm.list_models(pretrained=True):
        config = timm.data.resolve_data_config(timm.get_pretrained_cfg(name).to_dict(), use_test_size=False)
        found.setdefault(tuple(sorted(config.items())), name)
    return {name: dict(key) for key, name in found.items()}


CONFIGURATIONS = configurations()


def test_the_configurations_cover_what_timm_can_do():
    sides = {len(set(config["input_size"][1:])) for config in CONFIGURATIONS.values()}

    assert len(CONFIGURATIONS) > 100
    assert {config["crop_mode"] for config in CONFIGURATIONS.values()} == {"center", "squash", "border"}
    assert {config["interpolation"] for config in CONFIGURATIONS.values()} >= {"bicubic", "bilinear"}
    assert sides == {1, 2}


@pytest.mark.slow
def test_every_configuration_of_a_pretrained_tag_is_met_bit_for_bit():
    for n, (name, config) in enumerate(CONFIGURATIONS.items()):
        transform = timm.data.create_transform(**config, is_training=False)
        image = picture(*SIZES[n % 3])

        ours = as_preprocessing(config, config["input_size"][1:])
        assert torch.equal(ours.apply(image), transform(image)), name


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["center", "squash", "border"]),
    st.sampled_from(["bicubic", "bilinear", "lanczos", "nearest", "box", "hamming"]),
    st.tuples(st.integers(8, 90), st.integers(8, 90)),
    st.floats(0.5, 1.0),
    st.tuples(st.integers(8, 200), st.integers(8, 200)),
)
def test_any_configuration_is_met_bit_for_bit(mode, interpolation, size, share, of):
    config = {
        "input_size": (3, *size), "interpolation": interpolation, "mean": (0.48, 0.45, 0.4), "std": (0.2, 0.22, 0.3),
        "crop_pct": share, "crop_mode": mode,
    }  # fmt: skip
    assume(min(of) / max(of) * min(size) / share >= 1)  # timm itself fails on a side of no pixels
    transform = timm.data.create_transform(**config, is_training=False)
    image = picture(*of)

    assert torch.equal(as_preprocessing(config, size).apply(image), transform(image))


@pytest.mark.slow
def test_an_architecture_that_adds_a_border_is_said_too():
    name = next(name for name, config in CONFIGURATIONS.items() if config["crop_mode"] == "border")
    spec = TimmProvider().spec(Reference("timm", name))
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model), is_training=False)

    for size in SIZES:
        assert torch.equal(spec.preprocessing.apply(picture(*size)), transform(picture(*size))), size
