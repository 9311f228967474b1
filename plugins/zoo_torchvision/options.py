"""From a reference's options to what torchvision's builder is given and how pictures are prepared."""

from __future__ import annotations

from typing import Any

from zoo.errors import ConfigError
from zoo.preprocessing import Preprocessing
from zoo.reference import Reference
from zoo_torchvision.anatomy import Anatomy

__all__ = ["read_options"]

# The normalisation to which GoogLeNet and Inception shift their input inside the module, in RGB only.
SHIFTED = 0.5


def read_options(
    reference: Reference, architecture: str, anatomy: Anatomy, entry: Any, tag: str | None
) -> tuple[Preprocessing, dict[str, Any]]:
    """Read the options of a reference.

    Args:
        reference: What is asked for; its options' names are already checked.
        architecture: torchvision's name.
        anatomy: Its family's row.
        entry: The member of the weights enum whose preset holds.
        tag: That member's name; None if the reference has none.

    Returns:
        The preprocessing, and the construction: architecture, tag, ``in_channels`` and the builder's arguments.

    Raises:
        ConfigError: If an option's value cannot be used.
    """
    channels = _whole(reference, "in_channels", 3)
    preset = entry.transforms()
    arguments = dict(anatomy.arguments)
    side = preset.crop_size[0]
    if anatomy.size_keyword is not None:
        side = _whole(reference, "img_size", side)
        arguments[anatomy.size_keyword] = side if anatomy.layout == "tokens" else [side, side]
    shifts = anatomy.shifts_input and tag is not None
    if anatomy.shifts_input:
        arguments["transform_input"] = shifts and channels == 3
    for rate in anatomy.rates:
        if rate in reference.options:
            arguments[rate] = _rate(reference, rate)
    mean, std = tuple(preset.mean), tuple(preset.std)
    if shifts and channels != 3:
        mean, std = (SHIFTED,), (SHIFTED,)
    if channels != len(mean):
        mean, std = (sum(mean) / len(mean),) * channels, (sum(std) / len(std),) * channels
    preprocessing = Preprocessing(
        size=(side, side),
        resize=(round(preset.resize_size[0] * side / preset.crop_size[0]),),
        interpolation=preset.interpolation.value,
        mean=mean,
        std=std,
        channels=channels,
    )
    return preprocessing, {
        "architecture": architecture,
        "tag": tag,
        "in_channels": channels,
        "arguments": arguments,
    }


def _whole(reference: Reference, option: str, default: int) -> int:
    value = reference.options.get(option, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{reference}: {option} must be a whole number of 1 or more, got {value!r}.")
    return value


def _rate(reference: Reference, option: str) -> float:
    value = reference.options[option]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ConfigError(f"{reference}: {option} must be a number in [0, 1), got {value!r}.")
    return float(value)
