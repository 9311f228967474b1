"""From a reference's options to what torchvision's builder is given and how pictures are prepared."""

from __future__ import annotations

from typing import Any

from zoo.errors import ConfigError
from zoo.preprocessing import Preprocessing
from zoo.reference import Reference
from zoo_torchvision.anatomy import Anatomy
from zoo_torchvision.transforms import read_preprocessing

__all__ = ["read_options"]

DEPTH = ("drop_path", "stochastic_depth_prob")
"""zoo's name for the rate of stochastic depth, and torchvision's."""


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
        The preprocessing, and the construction: architecture, tag, ``in_channels``, the builder's arguments, and
        ``drop_path`` if it is set in the modules.

    Raises:
        ConfigError: If an option's value cannot be used.
    """
    channels = _whole(reference, "in_channels", 3)
    shifts = anatomy.shifts_input and tag is not None
    preprocessing = _prepared(anatomy, entry, channels, _asked_size(reference, anatomy, entry), shifts)
    arguments = dict(anatomy.arguments)
    if anatomy.size_keyword is not None:
        side = preprocessing.size[0]
        arguments[anatomy.size_keyword] = side if anatomy.layout == "tokens" else [side, side]
    if anatomy.shifts_input:
        arguments["transform_input"] = shifts and channels == 3
    for rate in anatomy.rates:
        if rate in reference.options:
            arguments[rate] = _rate(reference, rate)
    depth = _depth(reference)
    if depth is not None and anatomy.drop_path == "keyword":
        arguments["stochastic_depth_prob"] = depth
    return preprocessing, {
        "architecture": architecture,
        "tag": tag,
        "in_channels": channels,
        "arguments": arguments,
        "drop_path": depth if anatomy.drop_path == "modules" else None,
    }


def _prepared(anatomy: Anatomy, entry: Any, channels: int, size: tuple[int, int] | None, shifts: bool) -> Preprocessing:
    """Say how pictures are prepared: by the model's own transform, or by the preset of the weights."""
    if anatomy.recipe is None:
        return read_preprocessing(entry.transforms(), channels=channels, size=size, shifts=shifts)
    recipe = anatomy.recipe.with_channels(channels)
    return recipe if size is None else recipe.at(size)


def _asked_size(reference: Reference, anatomy: Anatomy, entry: Any) -> tuple[int, int] | None:
    """Read ``img_size``, in pixels; None if it is not given.

    Raises:
        ConfigError: If the network cannot take it; the message names the nearest size that it can.
    """
    if "img_size" not in reference.options:
        return None
    side = _whole(reference, "img_size", 1)
    native = _prepared(anatomy, entry, 3, None, False).size[0]
    if anatomy.one_size:
        fits, rule = [native], f"{native}, for which its position embeddings are made"
    elif anatomy.step > 1:
        below = side // anatomy.step * anatomy.step
        fits = [one for one in (below, below + anatomy.step) if one] if side % anatomy.step else [side]
        rule = f"a multiple of {anatomy.step}"
    else:
        fits, rule = [max(side, anatomy.least)], f"{anatomy.least} or more"
    if side not in fits:
        near = " and ".join(str(one) for one in fits)
        raise ConfigError(f"{reference}: img_size must be {rule}, got {side}; the nearest it can take: {near}.")
    return side, side


def _depth(reference: Reference) -> float | None:
    """Read the rate of stochastic depth under either of its names; None if it is not given."""
    given = [name for name in DEPTH if name in reference.options]
    if len(given) > 1:
        raise ConfigError(f"{reference}: {DEPTH[0]} and {DEPTH[1]} are two names of one rate; give one of them.")
    return _rate(reference, given[0]) if given else None


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
