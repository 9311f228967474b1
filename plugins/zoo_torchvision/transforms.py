"""The presets of torchvision's weights as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torchvision.transforms import _presets as presets

from zoo.errors import ConfigError
from zoo.preprocessing import Preprocessing

__all__ = ["read_preprocessing"]

USUAL_SIZE = (224, 224)
"""Height and width, in pixels, that stand for a preset which takes pictures as they are."""
SHIFTED = 0.5
"""The statistics to which GoogLeNet and Inception shift their input inside the module, in RGB only."""


def read_preprocessing(
    preset: Any, *, channels: int = 3, size: tuple[int, int] | None = None, shifts: bool = False
) -> Preprocessing:
    """Say a weights entry's ``transforms()`` as data; the tensors are bit-equal to its own.

    Args:
        preset: What ``weights.transforms()`` gives.
        channels: Channels that the backbone takes; each gets the mean of the statistics if they are not 3.
        size: Height and width that the backbone must get, in pixels; None for the preset's own. Presets for
            segmentation and detection keep a picture's shape unless a size is given.
        shifts: Whether the module itself shifts RGB input to other statistics.

    Raises:
        ConfigError: If the preset is not for pictures or clips.
    """
    read = _READERS.get(type(preset))
    if read is None:
        raise ConfigError(
            f"torchvision's preset {type(preset).__name__} cannot be said as data: it is not for a picture or a clip."
        )
    said = read(preset)
    if shifts and channels != 3:
        said = replace(said, mean=(SHIFTED,) * 3, std=(SHIFTED,) * 3)
    said = said.with_channels(channels)
    return said if size is None else said.at(size)


def _classification(preset: Any) -> Preprocessing:
    side = preset.crop_size[0]
    return Preprocessing(
        size=(side, side),
        resize=tuple(preset.resize_size),
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def _segmentation(preset: Any) -> Preprocessing:
    resize = None if preset.resize_size is None else tuple(preset.resize_size)
    return Preprocessing(
        size=USUAL_SIZE if resize is None else (resize[0], resize[-1]),
        resize=resize,
        interpolation=preset.interpolation.value,
        crop="none",
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def _detection(preset: Any) -> Preprocessing:
    return Preprocessing(size=USUAL_SIZE, resize=None, crop="none", mean=(0.0,) * 3, std=(1.0,) * 3)


def _clips(preset: Any) -> Preprocessing:
    height, width = preset.crop_size
    return Preprocessing(
        size=(height, width),
        resize=tuple(preset.resize_size),
        interpolation=preset.interpolation.value,
        on="tensor",
        antialias=False,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        rules="torchvision",
    )


_READERS: dict[type, Callable[[Any], Preprocessing]] = {
    presets.ImageClassification: _classification,
    presets.SemanticSegmentation: _segmentation,
    presets.ObjectDetection: _detection,
    presets.VideoClassification: _clips,
}
