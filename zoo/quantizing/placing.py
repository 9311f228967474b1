"""Where to round: found by following one pass through a backbone, from module to module.

A convolution or linear layer computes with integers if its weight, what goes in and what comes out are rounded. What
comes out is rounded once what follows without a rounding of its own is done: a norm of the batch, which becomes part of
the weight, and a ReLU, which becomes part of the range. What goes in is rounded where it is made, so that all who read
it, such as the sum with a shortcut, read the same integers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from zoo.contracts.backbone import Backbone
from zoo.contracts.rounding import takes, weight_of
from zoo.pruning.measuring import all_of, sample_of
from zoo.spec import Quantized

__all__ = ["places_of"]

_CLIPS = (nn.ReLU, nn.ReLU6)
"""What a range that ends where they cut does by itself."""

Place = tuple[str, bool]
"""Path of a module, and whether what comes out of it is meant, not what goes in."""


@dataclass(slots=True)
class _Made:
    """How a tensor came to be.

    Args:
        places: Where it can be rounded, the last being the best.
        layer: The layer whose output it is, with no more than a norm and a ReLU since; None for anything else.
    """

    places: list[Place]
    layer: str | None = None


@dataclass(slots=True)
class _Trace:
    """What was seen in one pass; tensors are known by themselves and their version, since some are changed in place."""

    known: dict[int, tuple[Tensor, int, _Made]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    read: dict[str, _Made | None] = field(default_factory=dict)
    given: dict[str, _Made] = field(default_factory=dict)
    norms: list[tuple[str, _Made]] = field(default_factory=list)
    clips: list[_Made | None] = field(default_factory=list)

    def of(self, tensor: Any) -> _Made | None:
        found = self.known.get(id(tensor))
        return None if found is None or found[1] != tensor._version else found[2]

    def note(self, tensor: Tensor, made: _Made) -> None:
        self.known[id(tensor)] = tensor, tensor._version, made


def places_of(backbone: Backbone, observer: str) -> tuple[Quantized, tuple[str, ...]]:
    """Say where a backbone is to round.

    Args:
        backbone: The backbone, in eval mode, not rounding yet.
        observer: By what the ranges will be found.

    Returns:
        Where, and the paths of the layers that stay in float.
    """
    order = [path for path, _ in backbone.native.named_modules()]
    first = next(backbone.native.parameters())
    trace = _Trace()
    with torch.no_grad(), _followed(backbone.native, trace):
        backbone(sample_of(backbone.spec, batch=2, device=str(first.device)), all_of(backbone))
    once = {path for path, count in trace.calls.items() if count == 1}
    every = [path for path, layer in backbone.native.named_modules() if takes(layer)]
    layers = [path for path in every if path in once and path in trace.given]
    chosen: set[Place] = set()
    for layer in layers:
        chosen.add(_best(trace.given[layer], once) or (layer, True))
        made = trace.read[layer]
        chosen.add((None if made is None else _best(made, once)) or (layer, False))
    place = order.index
    return Quantized(
        layers=tuple(layers),
        inputs=tuple(sorted((path for path, after in chosen if not after), key=place)),
        outputs=tuple(sorted((path for path, after in chosen if after), key=place)),
        observer=observer,
    ), tuple(path for path in every if path not in layers)


def _best(made: _Made, once: set[str]) -> Place | None:
    return next((place for place in reversed(made.places) if place[0] in once), None)


@contextmanager
def _followed(native: nn.Module, trace: _Trace) -> Iterator[None]:
    handles: list[RemovableHandle] = []
    for path, module in native.named_modules():
        handles.append(module.register_forward_pre_hook(_Enter(trace, path)))
        handles.append(module.register_forward_hook(_Leave(trace, path)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Enter:
    """Sees what goes into a module."""

    def __init__(self, trace: _Trace, path: str) -> None:
        self.trace, self.path = trace, path

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        trace, path = self.trace, self.path
        trace.calls[path] += 1
        given = args[0] if args else None
        if not isinstance(given, Tensor):
            return
        made = trace.of(given)
        if takes(module):
            trace.read[path] = made
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            trace.norms.append((path, made if made is not None and made.layer is not None else _Made([])))
        elif made is None and trace.norms and path.rpartition(".")[0] == trace.norms[-1][0]:
            before = trace.norms[-1][1]  # a norm with an activation inside hands its own result to that
            if before.layer is not None:
                trace.given[before.layer] = inner = _Made([*before.places, (path, False)], before.layer)
                trace.note(given, inner)
        if isinstance(module, _CLIPS):
            trace.clips.append(trace.of(given))


class _Leave(_Enter):
    """Sees what comes out of a module."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], out: Any = None) -> None:
        trace, path = self.trace, self.path
        norm = trace.norms.pop()[1] if isinstance(module, nn.modules.batchnorm._BatchNorm) and trace.norms else None
        clipped = trace.clips.pop() if isinstance(module, _CLIPS) and trace.clips else None
        if not isinstance(out, Tensor):
            return None
        if takes(module):
            made = _Made([(path, True)])
            if _multiplies(module, args, out):
                trace.given[path] = made = _Made([(path, True)], path)
            return trace.note(out, made)
        if norm is not None and trace.of(out) is None and norm.layer is not None and out is not args[0]:
            return self._goes_on(norm, out)
        if clipped is not None and clipped.layer is not None:
            return self._goes_on(clipped, out)
        if trace.of(out) is None:
            trace.note(out, _Made([(path, True)]))
        return None

    def _goes_on(self, made: _Made, out: Tensor) -> None:
        """Let what a layer gave go on: what it can be rounded as now comes last."""
        trace = self.trace
        later = _Made([*made.places, (self.path, True)], made.layer)
        if made.layer is not None:
            trace.given[made.layer] = later
        trace.note(out, later)


def _multiplies(layer: nn.Module, args: tuple[Any, ...], out: Tensor) -> bool:
    """Say whether a layer of a library's own kind multiplies with the very weight that it holds.

    One that standardises its weight first does not, and what it multiplies with would be no integers.
    """
    if type(layer) in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear):
        return True
    weight = weight_of(layer)
    held = weight.detach().clone()
    try:
        weight.detach().mul_(2)
        twice: Tensor = layer.forward(*args)
        weight.detach().zero_()
        without: Tensor = layer.forward(*args)
    finally:
        weight.detach().copy_(held)
    return torch.allclose(twice - out, out - without, rtol=1e-3, atol=1e-4)
