"""zoo's options of a timm model, and what each becomes; what timm would take and not obey is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import timm
from torch import nn

from zoo.errors import ConfigError, UnknownName
from zoo.reference import Reference
from zoo.strict import check_options
from zoo_timm.blocks import BLOCK_OPTIONS, check_blocks, plan_blocks

__all__ = ["OPTIONS", "check_arguments", "check_obeyed", "plan_construction", "refuse_smuggled"]

# zoo's option -> the keyword of timm's factory or model.
OPTIONS = {
    "in_channels": "in_chans",
    "img_size": "img_size",
    "drop_rate": "drop_rate",
    "drop_path": "drop_path_rate",
    "drop_path_rate": "drop_path_rate",
    "global_pool": "global_pool",
    "dynamic_img_size": "dynamic_img_size",
    "output_stride": "output_stride",
}

_WRITTEN = {"architecture", "tag", "arguments", "blocks", "size", "taps", "readings"}


def plan_construction(reference: Reference) -> dict[str, Any]:
    """Turn a reference into all that is needed to build the model again.

    ``img_size`` is an argument of networks that are built for a size; for others it only says at which size pictures
    come. With ``blocks`` it is a network of its own, which has no pretrained weights.

    Raises:
        UnknownName: If it names a part or an option that there is not.
        ConfigError: If an option's value cannot be used.
    """
    check_options(str(reference), reference.options, {*OPTIONS, *BLOCK_OPTIONS})
    if reference.part is not None:
        raise UnknownName(f"{reference}: timm models have one part; leave '#{reference.part}' out.")
    if {"drop_path", "drop_path_rate"} <= set(reference.options):
        raise ConfigError(f"{reference}: drop_path and drop_path_rate are one option; give one of them.")
    architecture, _, tag = reference.name.partition(".")
    arguments = {OPTIONS[option]: value for option, value in reference.options.items() if option in OPTIONS}
    construction: dict[str, Any] = {"architecture": architecture, "tag": tag or None, "arguments": arguments}
    blocks = plan_blocks(reference, architecture)
    if blocks is not None:  # no tag's weights fit them
        construction |= {"tag": None, "blocks": blocks}
    check_arguments(reference, arguments)
    config = timm.get_pretrained_cfg(reference.name, allow_unregistered=False)
    if "img_size" in arguments and config is not None and not config.fixed_input_size:
        side = arguments.pop("img_size")
        construction["size"] = [side, side]
    return construction


def refuse_smuggled(reference: Reference, construction: Mapping[str, Any]) -> None:
    """Refuse what zoo never writes: a spec may come from a stranger's bundle.

    timm would follow ``hf-hub:…`` and ``local-dir:…`` names, and read files and networks for some keywords.
    """
    for key in construction:
        if key not in _WRITTEN:
            raise ConfigError(f"{reference}: the spec holds {key!r}, which zoo never writes; do not trust its source.")
    architecture, tag, arguments = (construction.get(key) for key in ("architecture", "tag", "arguments"))
    if tag is not None and not (isinstance(tag, str) and re.fullmatch(r"[\w.-]+", tag)):
        raise ConfigError(f"{reference}: {tag!r} is no tag of timm {timm.__version__}.")
    if not isinstance(arguments, Mapping):
        raise ConfigError(f"{reference}: the spec's arguments must be a mapping, got {arguments!r}.")
    if not isinstance(architecture, str) or not timm.is_model(architecture) or ":" in architecture:
        raise ConfigError(f"{reference}: {architecture!r} is no architecture of timm {timm.__version__}.")
    if "blocks" in construction:
        check_blocks(str(reference), architecture, construction["blocks"])
    for keyword, value in arguments.items():
        if keyword not in OPTIONS.values() or not isinstance(value, (str, int, float, bool, type(None))):
            raise ConfigError(
                f"{reference}: the spec holds {keyword!r}, which zoo never writes; do not trust its source."
            )


def check_arguments(reference: Reference, arguments: Mapping[str, Any]) -> None:
    """Refuse numbers that timm would take and that mean nothing."""
    for option, keyword, what in (
        ("in_channels", "in_chans", "a whole number, 1 or more"),
        ("img_size", "img_size", "a whole number of pixels, 1 or more"),
    ):
        value = arguments.get(keyword, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{reference}: {option} must be {what}, got {value!r}.")
    for rate in ("drop_rate", "drop_path_rate"):
        value = arguments.get(rate, 0)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1:
            raise ConfigError(f"{reference}: {rate} must be in [0, 1), got {value!r}.")


def check_obeyed(reference: Reference, native: nn.Module, arguments: Mapping[str, Any]) -> None:
    """Refuse what the model was given and dropped.

    Raises:
        ConfigError: If a path should be dropped and no layer of the model does.
    """
    if arguments.get("drop_path_rate") and not any(_drops_paths(module) for module in native.modules()):
        raise ConfigError(
            f"{reference}: {type(native).__name__} has no path that could be dropped; leave drop_path out."
        )


def _drops_paths(module: nn.Module) -> bool:
    rate = getattr(module, "drop_prob", 0) if "droppath" in type(module).__name__.lower() else 0
    return bool(rate or 0)
