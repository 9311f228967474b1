"""Between transformers' image processors and zoo's Preprocessing: one recipe, proven on pictures of noise."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from PIL import Image

from zoo.errors import WeightsError
from zoo.preprocessing import Preprocessing
from zoo_huggingface.pictures import found_processor, make_processor, runs_itself
from zoo_huggingface.recipes import say
from zoo_huggingface.sources import Source
from zoo_huggingface.whole import Unsayable, one_picture
from zoo_huggingface.writers import written

__all__ = [
    "DEFAULT_SIZE", "as_preprocessing", "as_processor", "default_preprocessing", "deviation", "read_preprocessing",
    "usual_size",
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


def read_preprocessing(
    who: str, source: Source, model_type: str, *, channels: int, size: tuple[int, int] | None
) -> Preprocessing | None:
    """Read a source's image processor as a Preprocessing; a source without one gets the default.

    A bare type gets the default, too, unless the processor that transformers has for it is run itself.

    Args:
        who: The reference, for messages.
        source: Where the backbone comes from.
        model_type: Its type, which names the processor where the file does not.
        channels: Channels that the backbone takes.
        size: Height and width that the backbone must get, in pixels; None for the processor's own.

    Returns:
        The recipe; None if the processor does what a Preprocessing cannot say, with a line in the log if it cannot be
        run itself either.

    Raises:
        ConfigError: If the file is not JSON.
    """
    try:
        found = found_processor(source)
        if found is None and source.kind == "type" and channels == 3 and runs_itself(model_type):
            return None
        if found is None:
            return default_preprocessing(channels, size or DEFAULT_SIZE)
        said = as_preprocessing(make_processor(found, model_type))
    except (WeightsError, Unsayable) as error:
        if usual_size(source, model_type) is None:
            log.warning("%s: its preprocessing is not known, so give it tensors that are ready: %s", who, error)
        return None
    said = said.with_channels(channels)
    return said if size is None else said.at(size)


def usual_size(source: Source, model_type: str) -> tuple[int, int] | None:
    """Give the height and width that a source's image processor makes of a usual picture; None if it makes none."""
    try:
        made = one_picture(make_processor(found_processor(source) or {}, model_type), Image.new("RGB", DEFAULT_SIZE))
    except (WeightsError, Unsayable):
        return None
    return int(made.shape[1]), int(made.shape[2])


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
        theirs, ours = one_picture(processor, Image.fromarray(noise)), said.apply(Image.fromarray(noise))
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
        return content if deviation(make_processor(content, ""), said) <= _TOLERANCE else None
    except Unsayable:
        return None
