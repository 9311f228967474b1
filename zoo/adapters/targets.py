"""Which layers of a backbone get an adapter: those that PEFT can adapt exactly, and that a pass really calls."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import nn

from zoo.contracts.backbone import Backbone
from zoo.contracts.examples import example_inputs
from zoo.contracts.features import Want
from zoo.errors import ConfigError, UnknownName, nearest

__all__ = ["KINDS", "choose", "why_not"]

KINDS = ("auto", "attention", "linear", "all")
"""Words for layers: those of attention, or all where there are none; of attention; linear ones; convolutions, too."""

_ATTENTION = re.compile(r"attn|attention|mha", re.IGNORECASE)
_PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def choose(
    backbone: Backbone, targets: str | Sequence[str], want: Want, stages: Iterable[str] | None
) -> tuple[str, ...]:
    """Choose the layers of a backbone that get an adapter.

    Args:
        backbone: The backbone.
        targets: One of :data:`KINDS`, or paths of layers in the library's module; one may be the end of a path
            (``qkv``), and ``*`` stands for any letters.
        want: What the pass gives in which the layers must be called.
        stages: The stages in which layers are chosen; None for all.

    Returns:
        Their paths, sorted.

    Raises:
        UnknownName: If a path or a stage is none of the backbone's.
        ConfigError: If the backbone is quantized, no layer is left, or one that was named cannot be adapted; the
            message says why.
    """
    if backbone.spec.quantized is not None:
        raise ConfigError(
            f"{backbone.spec.reference} is quantized, and adapters add to layers in float; put them on the float "
            "model, merge them once it is trained, and quantize it then."
        )
    within = None if stages is None else frozenset(backbone.spec.stage(stage).name for stage in stages)
    shared = _shared(backbone.native)
    layers = {
        path: module
        for path, module in backbone.native.named_modules()
        if isinstance(module, _PLAIN) and (within is None or backbone.stage_of(path) in within)
    }
    fit = {path for path, module in layers.items() if why_not(module) is None and path not in shared}
    called = _called(backbone, {path: layers[path] for path in fit}, want) if fit else frozenset[str]()
    if isinstance(targets, str) and targets in KINDS:
        chosen = _KINDS[targets](called, layers)
    else:
        chosen = _named(backbone, [targets] if isinstance(targets, str) else targets, layers, shared, called)
    if not chosen:
        where = "" if stages is None else f" in the stages {', '.join(stages)}"
        raise ConfigError(
            f"{backbone.spec.reference} has no layer for targets={targets!r}{where}; "
            f"use targets='all', or name some of: {', '.join(sorted(called)[:8]) or 'none'}."
        )
    return tuple(sorted(chosen))


def why_not(module: nn.Module) -> str | None:
    """Say why a layer cannot be adapted; None if it can.

    PEFT's convolutions leave dilation and padding modes out and cannot be merged where there are groups, and a class
    with a pass of its own (such as one that standardises its weight) would be another layer once merged.
    """
    base = next((kind for kind in _PLAIN if isinstance(module, kind)), None)
    if base is None:
        return f"is a {type(module).__name__}, and adapters are for linear and convolutional layers"
    if type(module).forward is not base.forward:
        return f"is a {type(module).__name__}, which does more than {base.__name__}"
    if isinstance(module, nn.Linear):
        return None
    conv: Any = module
    reasons = {"groups": conv.groups != 1, "dilation": set(conv.dilation) != {1}}
    reasons["a padding mode"] = conv.padding_mode != "zeros"
    return next((f"is a convolution with {what}" for what, has in reasons.items() if has), None)


def _attention(called: Iterable[str], layers: Mapping[str, nn.Module]) -> set[str]:
    return {path for path in called if isinstance(layers[path], nn.Linear) and _ATTENTION.search(path)}


def _linear(called: Iterable[str], layers: Mapping[str, nn.Module]) -> set[str]:
    return {path for path in called if isinstance(layers[path], nn.Linear)}


_KINDS: Mapping[str, Callable[[Iterable[str], Mapping[str, nn.Module]], set[str]]] = {
    "auto": lambda called, layers: _attention(called, layers) or set(called),
    "attention": _attention,
    "linear": _linear,
    "all": lambda called, layers: set(called),
}


def _named(
    backbone: Backbone,
    patterns: Sequence[str],
    layers: Mapping[str, nn.Module],
    shared: frozenset[str],
    called: frozenset[str],
) -> set[str]:
    modules = dict(backbone.native.named_modules())
    chosen: set[str] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise ConfigError(f"targets must be {', '.join(KINDS)} or paths of layers, got {pattern!r}.")
        found = [path for path in modules if _matches(path, pattern)]
        if not found:
            near = nearest(pattern, [*layers, *KINDS]) or sorted(layers)[:8]
            raise UnknownName(f"{backbone.spec.reference} has no layer {pattern!r}; near: {', '.join(near)}.")
        usable = called.intersection(found)
        if not usable:
            reason = _reason(modules[found[0]], found[0] in shared)
            raise ConfigError(f"{found[0]} of {backbone.spec.reference} cannot be adapted: it {reason}.")
        chosen |= usable
    return chosen


def _reason(module: nn.Module, shared: bool) -> str:
    if shared:
        return "shares its weight with another layer"
    return (
        why_not(module)
        or "is not called: another layer reads its weight, nothing reads its output, or its stage is left out"
    )


def _matches(path: str, pattern: str) -> bool:
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"*.{pattern}")


def _shared(native: nn.Module) -> frozenset[str]:
    """Name the layers whose weight is another module's too: merged into one, it would change both."""
    owners: dict[int, list[str]] = {}
    for path, module in native.named_modules():
        for tensor in module._parameters.values():
            if tensor is not None:
                owners.setdefault(id(tensor), []).append(path)
    return frozenset(path for paths in owners.values() if len(paths) > 1 for path in paths)


def _called(backbone: Backbone, layers: Mapping[str, nn.Module], want: Want) -> frozenset[str]:
    """Run one example, and give the layers that were called as modules are; what reads weights only is left out."""
    seen: set[str] = set()
    modes = {module: module.training for module in backbone.modules()}
    before = {path: vars(module).get("forward") for path, module in layers.items()}
    device = next(next(iter(layers.values())).parameters()).device
    try:
        for path, module in layers.items():
            vars(module)["forward"] = partial(_note, seen, path, module.forward)
        for module in modes:
            module.training = False
        with torch.no_grad(), _quiet(device):
            inputs = example_inputs(backbone.spec, 1)
            backbone({name: tensor.to(device) for name, tensor in inputs.items()}, want)
    finally:
        for path, module in layers.items():
            vars(module).pop("forward")
            if before[path] is not None:
                vars(module)["forward"] = before[path]
        for module, mode in modes.items():
            module.training = mode
    return frozenset(seen)


def _note(seen: set[str], path: str, forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    seen.add(path)
    return forward(*inputs, **named)


@contextlib.contextmanager
def _quiet(device: torch.device) -> Iterator[None]:
    """Leave the random number generators as they are."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
