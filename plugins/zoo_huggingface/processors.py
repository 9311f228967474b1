"""Between transformers' image processors and zoo's Preprocessing: one recipe, proven on pictures of noise."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.models.auto.image_processing_auto import (
    IMAGE_PROCESSOR_MAPPING_NAMES,
    get_image_processor_class_from_name,
)

from zoo.errors import WeightsError
from zoo.preprocessing import Preprocessing
from zoo_huggingface.plans import clean
from zoo_huggingface.quiet import quiet
from zoo_huggingface.recipes import COUNTED, Unsayable, say
from zoo_huggingface.sources import Source, first_line
from zoo_huggingface.writers import written

__all__ = [
    "DEFAULT_SIZE", "as_preprocessing", "as_processor", "default_preprocessing", "deviation", "read_preprocessing",
]  # fmt: skip

log = logging.getLogger("zoo")

DEFAULT_SIZE = (224, 224)
"""Height and width in pixels where neither config nor processor says one."""

_PROOF = ((96, 48), (61, 122), (203, 150))
"""Width and height of pictures of noise, in pixels: wide, tall, and odd sides that leave odd margins."""
_LARGEST = (900, 700)
"""Most width and height of the one picture that is larger than the processor's size."""
_TOLERANCE = 1.001
"""How far a value may be from the processor's, in levels of 0 to 255."""
_MAIN = ("pixel_values", "pixel_values_images")


def read_preprocessing(
    who: str, source: Source, model_type: str, *, channels: int, size: tuple[int, int] | None
) -> Preprocessing | None:
    """Read a source's image processor as a Preprocessing; a source without one gets the default.

    Args:
        who: The reference, for messages.
        source: Where the backbone comes from.
        model_type: Its type, which names the processor where the file does not.
        channels: Channels that the backbone takes.
        size: Height and width that the backbone must get, in pixels; None for the processor's own.

    Returns:
        The recipe; None, with a line in the log, if the processor does what a Preprocessing cannot say.

    Raises:
        ConfigError: If the file is not JSON.
    """
    try:
        nested = (source.json("processor_config.json") or {}).get("image_processor")
        found = nested or source.json("preprocessor_config.json")
        if found is None:
            return default_preprocessing(channels, size or DEFAULT_SIZE)
        said = as_preprocessing(_processor(found, model_type))
    except (WeightsError, Unsayable) as error:
        log.warning("%s: its preprocessing is not known, so give it tensors that are ready: %s", who, error)
        return None
    said = said.with_channels(channels)
    return said if size is None else said.at(size)


def default_preprocessing(channels: int, size: tuple[int, int]) -> Preprocessing:
    """Give the recipe for a backbone that says none: scale to its size, values from -1 to 1."""
    half = (0.5,) * channels
    return Preprocessing(
        size=size, resize=size, interpolation="bilinear", on="tensor", mean=half, std=half, channels=channels
    )


def as_preprocessing(processor: Any) -> Preprocessing:
    """Say what an image processor does, and prove it on pictures of noise.

    Raises:
        ConfigError: If it does something that a Preprocessing cannot say; the message names it.
    """
    said = say(processor)
    if deviation(processor, said) > _TOLERANCE:
        raise Unsayable(f"{type(processor).__name__} gives other numbers than scaling, cropping and normalising do.")
    return said


def deviation(processor: Any, said: Preprocessing) -> float:
    """Give the largest difference between a processor and a recipe on pictures of noise, in levels of 0 to 255.

    Raises:
        ConfigError: If the processor fails, or gives no single picture.
    """
    levels = torch.tensor(said.std)[:, None, None] / said.scale
    largest = tuple(min(most, 2 * side + 31) for most, side in zip(_LARGEST, said.size[::-1], strict=True))
    worst = 0.0
    for width, height in (*_PROOF, largest):
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        theirs, ours = _theirs(processor, Image.fromarray(noise)), said.apply(Image.fromarray(noise))
        if theirs.shape != ours.shape:
            return float("inf")
        worst = max(worst, float(((theirs - ours) * levels).abs().max()))
    return worst


def as_processor(said: Preprocessing | None, *, clips: bool = False) -> dict[str, object] | None:
    """Write a Preprocessing as the ``preprocessor_config.json`` of a processor that does the same.

    Args:
        said: The recipe.
        clips: Whether the processor is to take clips, as those of video models do.

    Returns:
        Its content; None if there is no recipe, or no processor that is proven to give the same tensors. Pictures that
        are scaled by Pillow have none, since a file cannot ask for that form of a class; nor have those that are scaled
        to a number of pixels, since those processors give patches.
    """
    if said is None or said.channels != 3 or said.fit.startswith("budget") or (said.on == "pil" and not clips):
        return None
    content = written(said, clips=clips)
    try:
        return content if deviation(_processor(content, ""), said) <= _TOLERANCE else None
    except Unsayable:
        return None


def _processor(found: dict[str, Any], model_type: str) -> Any:
    """Make the processor that a file describes, of a class that transformers itself has."""
    name = found.get("image_processor_type") or found.get("feature_extractor_type")
    name = name or IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type, {}).get("torchvision")
    if not isinstance(name, str):
        raise Unsayable("its file names no image processor.")
    name = name.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")
    with quiet():
        cls = get_image_processor_class_from_name(name)
        if cls is None:
            raise Unsayable(f"transformers has no image processor {name!r}.")
        try:
            return cls(**clean(found))
        except Exception as error:  # what a processor's constructor raises has no common type
            raise Unsayable(f"{name} cannot be made from its file: {first_line(error)}") from error


def _unpacked(processor: Any, rows: Tensor, grid: list[int]) -> Tensor:
    """Put the patches of one picture, ``(N, values)``, together again, ``(C, H, W)``, as language models order them.

    Patches lie block by block. The values of one are channels, then frames, all of them alike, then pixels; where that
    is not so, it comes out as another picture.
    """
    name = type(processor).__name__
    patch, merge = processor.patch_size, processor.merge_size
    down, across = grid[0] // merge, grid[1] // merge
    if name.startswith("Cosmos3Edge"):  # pixels, then channels
        cut = rows.reshape(down, across, merge, merge, patch, patch, 3).permute(6, 0, 2, 4, 1, 3, 5)
    elif name.startswith("HunYuanVL"):  # patches row by row
        cut = rows.reshape(down, merge, across, merge, 3, -1, patch, patch)[..., 0, :, :].permute(4, 0, 1, 5, 2, 3, 6)
    else:
        cut = rows.reshape(down, across, merge, merge, 3, -1, patch, patch)[..., 0, :, :].permute(4, 0, 2, 5, 1, 3, 6)
    return cut.reshape(3, grid[0] * patch, grid[1] * patch)


def _theirs(processor: Any, picture: Image.Image) -> Tensor:
    """Give what a processor makes of one picture, ``(C, H, W)``; a clip of one frame counts as a picture."""
    name = type(processor).__name__
    try:
        with quiet():
            found = processor(images=picture, return_tensors="pt")
    except Exception as error:  # what a processor raises has no common type
        raise Unsayable(f"{name} fails on a picture: {first_line(error)}") from error
    several = isinstance(found, Mapping)
    value = next((found[key] for key in _MAIN if key in found), None) if several else found
    if not isinstance(value, Tensor):
        raise Unsayable(f"{name} gives {', '.join(found)} and no pixel_values.")
    if several and name.removesuffix("Pil") in COUNTED:
        value = _unpacked(processor, value, [int(side) for side in found["image_grid_thw"][0][1:]])
    while value.ndim > 3 and value.shape[0] == 1:
        value = value[0]
    if value.ndim != 3 or value.shape[0] not in (1, 3):
        raise Unsayable(f"{name} makes {tuple(value.shape)} of a picture: patches or several cuts, not one picture.")
    return value.to(torch.float32)
