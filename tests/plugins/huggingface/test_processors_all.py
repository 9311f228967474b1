"""Every image processor of transformers that can be made from its defaults: said exactly, nearly, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.auto.image_processing_auto import (
    IMAGE_PROCESSOR_MAPPING_NAMES,
    get_image_processor_class_from_name,
)

from zoo.errors import ConfigError
from zoo.preprocessing import Preprocessing
from zoo.spec import from_json, to_json
from zoo_huggingface.processors import as_preprocessing, as_processor
from zoo_huggingface.quiet import quiet

NAMES = sorted({name for row in IMAGE_PROCESSOR_MAPPING_NAMES.values() for name in row.values() if name})
# Pictures are none of those by which a recipe is proven when it is read.
SIZES = ((123, 77), (64, 151), (431, 317))
NEAR = {"DepthProImageProcessor", "PPDocLayoutV2ImageProcessor", "PPDocLayoutV3ImageProcessor"}
"""Classes whose numbers are ours but for the last bit, since they normalise before they scale, or by nothing."""
REASONS = (
    "patches or several cuts, not one picture", " does ", " scales to {", "and no pixel_values", "fails on a picture",
    "reads the text", "before it is scaled", "mirror image", "a filter of its own", "takes a trimap", "takes the boxes",
    "a least side of its own", "whole patches", "tiles of a picture beside the whole", "a second, larger picture",
    "clips the values", "by a budget of pixels", "widest line", "with aligned corners",
)  # fmt: skip


def noise(width: int, height: int, bands: int = 3) -> Image.Image:
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (height, width, bands), dtype=np.uint8))


def theirs(processor: Any, picture: Image.Image) -> torch.Tensor:
    with quiet():
        found = processor(images=picture, return_tensors="pt")
    value = found if isinstance(found, torch.Tensor) else found[next(k for k in found if k.startswith("pixel_values"))]
    if value.ndim == 2:
        value = picture_of(processor, value, *found["image_grid_thw"][0].tolist()[1:])
    return value.reshape(value.shape[-3:]).float()


def picture_of(processor: Any, patches: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Lay patches out one by one: block by block, or row by row; channels, frames, pixels, or pixels, channels."""
    name, side, merge = type(processor).__name__, processor.patch_size, processor.merge_size
    picture = torch.empty(3, rows * side, columns * side)
    places = [(row, column) for row in range(rows) for column in range(columns)]
    if not name.startswith("HunYuan"):
        places.sort(key=lambda place: (place[0] // merge, place[1] // merge, place))
    for patch, (row, column) in zip(patches, places, strict=True):
        if name.startswith("Cosmos3Edge"):
            pixels = patch.reshape(side, side, 3).permute(2, 0, 1)
        else:
            pixels = patch.reshape(3, -1, side, side)[:, 0]
        picture[:, row * side : (row + 1) * side, column * side : (column + 1) * side] = pixels
    return picture


@pytest.fixture(scope="module")
def read() -> dict[str, tuple[Any, Preprocessing | str]]:
    """Give for each class its processor, and what it is read as: a recipe, or the sentence that refuses it."""
    found: dict[str, tuple[Any, Preprocessing | str]] = {}
    for name in NAMES:
        with quiet():
            try:
                processor = get_image_processor_class_from_name(name)()
            except TypeError:  # one class needs an argument, timm's configuration
                assert name == "TimmWrapperImageProcessor"
                continue
        try:
            found[name] = processor, as_preprocessing(processor)
        except ConfigError as error:
            found[name] = processor, str(error)
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_processor_is_said_exactly_or_nearly_or_refused_with_its_reason(read):
    exact, near, refused = set(), set(), {}

    for name, (processor, said) in read.items():
        if isinstance(said, str):
            refused[name] = said
            continue
        assert from_json(Preprocessing, to_json(said)) == said
        pictures = [noise(*size) for size in SIZES]
        if getattr(processor, "do_convert_rgb", None) and not name.startswith("SegGpt"):  # which converts masks alone
            pictures.append(noise(90, 70, 4))
        pairs = [(said.apply(picture), theirs(processor, picture)) for picture in pictures]
        assert all(ours.shape == other.shape for ours, other in pairs), name
        levels = torch.tensor(said.std)[:, None, None] / said.scale
        assert max(float(((ours - other) * levels).abs().max()) for ours, other in pairs) <= 1, name
        (exact if all(torch.equal(*pair) for pair in pairs) else near).add(name)

    assert near == NEAR
    assert len(exact) >= 130
    assert len(refused) <= 92
    for name, reason in refused.items():
        assert name.removesuffix("Pil") in reason
        assert any(text in reason for text in REASONS), reason


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_recipe_on_tensors_is_written_back_as_a_processor_of_the_same_numbers(read):
    written = 0

    for name, (_, said) in read.items():
        if isinstance(said, str):
            continue
        content = as_processor(said)
        assert (content is None) == (said.on == "pil" or said.fit.startswith("budget")), name
        if content is None:
            continue
        written += 1
        with quiet():
            again = get_image_processor_class_from_name(content.pop("image_processor_type"))(**content)
        levels = torch.tensor(said.std)[:, None, None] / said.scale
        for size in SIZES[:2]:
            ours, other = said.apply(noise(*size)), theirs(again, noise(*size))
            assert ours.shape == other.shape, name
            assert float(((ours - other) * levels).abs().max()) <= 1, name

    assert written >= 62
