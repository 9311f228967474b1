"""Networks of the user's own blocks: an architecture of timm whose blocks are written out in timm's own language.

timm makes its MobileNets, MnasNets and EfficientNets from definitions such as ``ir_r2_k5_s2_e4_c40_se0.25_nre``: two
inverted residuals, the first of stride 2, with kernels of 5, four times as many channels inside, 40 channels out,
squeeze-and-excitation and ReLU. The options here replace those definitions, and with them the widths of the stem and of
the last convolution; the kind of network, its norms, its activation where a block names none, its kind of
squeeze-and-excitation and its preprocessing stay the architecture's.
"""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

from timm.models import _efficientnet_builder, efficientnet, is_model_in_modules, mobilenetv3

from zoo.errors import ConfigError
from zoo.reference import Reference

__all__ = ["BLOCK_OPTIONS", "check_blocks", "plan_blocks", "with_blocks"]

BLOCK_OPTIONS = ("blocks", "last_width", "stem_width")

# timm's module -> the function by which it makes every network, and the class that this makes.
_MAKERS: dict[str, tuple[Any, str, type]] = {
    "efficientnet": (efficientnet, "_create_effnet", efficientnet.EfficientNet),
    "mobilenetv3": (mobilenetv3, "_create_mnv3", mobilenetv3.MobileNetV3),
}
_MAKING = threading.Lock()

_RATIO = r"[0-9]{1,2}(?:\.[0-9]{1,4})?"
# Letter of a block's option -> its value. timm passes over what it does not know, so all is checked here.
_VALUES = {
    "r": r"[1-9][0-9]?",
    "k": r"[13579]|[1-3][13579]",
    "s": r"[12]",
    "e": _RATIO,
    "c": r"[1-9][0-9]{0,3}",
    "se": _RATIO,
    "n": r"re|r6|hs|sw|mi",
}
_NEEDED = {"r", "k", "s", "c"}
# Kind of block -> which letters it must have beside those, which it may have, and what it may say of its shortcut.
_KINDS: dict[str, tuple[set[str], set[str], set[str]]] = {
    "cn": (set(), {"n"}, {"skip"}),
    "ds": (set(), {"n", "se"}, {"noskip"}),
    "dsa": (set(), {"n", "se"}, {"noskip"}),
    "er": ({"e"}, {"n", "se"}, {"noskip"}),
    "ir": ({"e"}, {"n", "se"}, {"noskip"}),
}
_WITHOUT_EXPANSION = {"cn", "ds", "dsa"}
"""Kinds for which timm's own definitions write ``e1`` although nothing is expanded."""


def plan_blocks(reference: Reference, architecture: str) -> dict[str, Any] | None:
    """Read what a reference says of blocks, as its construction holds it; None if it says nothing.

    Raises:
        ConfigError: If they are not written as timm writes them, or the architecture is not made of such.
    """
    found = {option: reference.options[option] for option in BLOCK_OPTIONS if option in reference.options}
    if not found:
        return None
    check_blocks(str(reference), architecture, found)
    return found


def check_blocks(where: str, architecture: str, blocks: Any) -> None:
    """Check what is said of blocks: by a reference, or by a spec, which may come from a stranger.

    Args:
        where: The reference, for the message.
        architecture: The name of timm's architecture.
        blocks: What is said.

    Raises:
        ConfigError: If timm would not build just that.
    """
    if not isinstance(blocks, Mapping) or not set(blocks) <= set(BLOCK_OPTIONS):
        raise ConfigError(f"{where}: the spec holds {blocks!r} as blocks, which zoo never writes.")
    if "blocks" not in blocks:
        raise ConfigError(f"{where}: {' and '.join(sorted(blocks))} go with blocks=…; give the blocks too.")
    if _module(architecture) is None:
        raise ConfigError(
            f"{where}: {architecture} is not made of timm's block definitions; of those that are, take for example "
            "mobilenetv3_small_100, mnasnet_100 or efficientnet_lite0."
        )
    for option in ("stem_width", "last_width"):
        width = blocks.get(option, 1)
        if not isinstance(width, int) or isinstance(width, bool) or not 1 <= width <= 9999:
            raise ConfigError(f"{where}: {option} must be a whole number of channels from 1 to 9999, got {width!r}.")
    text = blocks["blocks"]
    for stage in text.split("/") if isinstance(text, str) else [""]:
        for block in stage.split(","):
            if reason := _fault(block):
                raise ConfigError(
                    f"{where}: blocks must be stages divided by '/', each of one block definition of timm or several "
                    f"divided by ',', as in ds_r1_k3_s1_c16/ir_r2_k5_s2_e4_c24_se0.25_nre; {block!r} {reason}."
                )


def _fault(block: str) -> str | None:
    """Say what is wrong with a block definition; None if nothing is."""
    kind, *parts = block.split("_")
    if kind not in _KINDS:
        return f"is none of the kinds {', '.join(sorted(_KINDS))}"
    needed, others, shortcuts = _KINDS[kind]
    needed = needed | _NEEDED
    seen: set[str] = set()
    for part in parts:
        if part in shortcuts:
            letter = part
        else:
            letter = next((one for one in ("se", *"rkscen") if re.fullmatch(f"{one}(?:{_VALUES[one]})", part)), "")
            spare = part == "e1" and kind in _WITHOUT_EXPANSION
            if not letter or (letter not in needed | others and not spare):
                return f"has {part!r}, which means nothing there"
            if letter in ("e", "se") and float(part[len(letter) :]) == 0:
                return f"has {part!r}, a ratio of nothing"
            if letter == "se" and float(part[2:]) > 1:
                return f"has {part!r}, a ratio above 1"
        if letter in seen:
            return f"says {letter!r} twice"
        seen.add(letter)
    missing = sorted(needed - seen)
    return f"lacks {', '.join(missing)}" if missing else None


def _module(architecture: str) -> str | None:
    return next((name for name in _MAKERS if is_model_in_modules(architecture, [name])), None)


@contextmanager
def with_blocks(architecture: str, blocks: Mapping[str, Any] | None) -> Iterator[None]:
    """Let timm's factory build an architecture from other blocks, inside.

    Its entry functions take no blocks, and hand theirs to one function of their module, which gets these instead.
    Widths are as they are written: an architecture's multiplier of widths or depths does not reach them.

    Args:
        architecture: The name of timm's architecture.
        blocks: What :func:`plan_blocks` gave; None to change nothing.
    """
    with nullcontext() if blocks is None else _replaced(str(_module(architecture)), blocks):
        yield


@contextmanager
def _replaced(module: str, blocks: Mapping[str, Any]) -> Iterator[None]:
    place, name, kind = _MAKERS[module]
    usual = inspect.signature(kind).parameters
    definitions = [stage.split(",") for stage in blocks["blocks"].split("/")]

    def make(variant: str, pretrained: bool = False, **arguments: Any) -> Any:
        stem = arguments.get("stem_size", usual["stem_size"].default)
        if not arguments.get("fix_stem") and "round_chs_fn" in arguments:
            stem = arguments["round_chs_fn"](stem)
        widths = {"num_features": blocks["last_width"]} if "last_width" in blocks else {}
        own = {
            "block_args": _efficientnet_builder.decode_arch_def(definitions),
            "stem_size": blocks.get("stem_width", stem),
            "fix_stem": True,
            "round_chs_fn": _as_written,
            **widths,
        }
        return original(variant, pretrained, **{**arguments, **own})

    with _MAKING:
        original = getattr(place, name)
        with mock.patch.object(place, name, make):
            yield


def _as_written(channels: int) -> int:
    return channels
