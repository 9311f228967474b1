"""Eight-bit integers as data: where a backbone rounds, and a module that is made to round there.

The weights stay the float parameters that they are, under their own names, and each pass rounds them to the 255 numbers
that eight bits hold, channel by channel; activations are rounded to 256 numbers of a range that is kept beside the
library's module. What comes out is what integer arithmetic gives, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from zoo.contracts.backbone import Backbone
from zoo.contracts.widths import reshape
from zoo.errors import ConfigError, nearest
from zoo.spec import BackboneSpec, Quantized

__all__ = [
    "LEAST",
    "MOST",
    "Rounding",
    "attach",
    "bring",
    "integers",
    "layers_of",
    "rounding_of",
    "scale_and_zero",
    "takes",
    "weight_of",
]

LEAST, MOST = -128, 127
"""The integers of activations; weights leave out the first, so that their range is symmetric."""
_TINY = torch.finfo(torch.float32).eps
_NAME = "rounding"
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)

Watch = Callable[["Rounding", int, Tensor, bool], None]
"""Sees the rounding, the number of the place, what comes there before it is rounded, and whether the place trains."""


def takes(layer: nn.Module) -> bool:
    """Say whether a layer's weights can be rounded."""
    return isinstance(layer, _LAYERS) and isinstance(layer._parameters.get("weight"), nn.Parameter)


def weight_of(layer: nn.Module) -> nn.Parameter:
    """Give the float weight of a layer."""
    found = layer._parameters["weight"]
    assert found is not None
    return found


def scale_and_zero(bounds: Tensor) -> tuple[Tensor, Tensor]:
    """Give the step and the integer of zero for a range; zero is always in it, and is hit exactly.

    Args:
        bounds: Its lower and upper end, ``(2,)``.

    Returns:
        The step, a float32 scalar above 0, and an int32 scalar from -128 to 127.
    """
    low, high = bounds[0].float().clamp_max(0), bounds[1].float().clamp_min(0)
    scale = ((high - low) / (MOST - LEAST)).clamp_min(_TINY)
    zero = (LEAST - low / scale).round().clamp(LEAST, MOST)
    return scale, zero.to(torch.int32)


def integers(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Give a weight as integers, ``int8`` of its shape, and the step of each output channel, ``(C,)`` float32."""
    steps = _steps(weight)
    whole = (weight.detach().float() / _beside(steps, weight)).round().clamp(-MOST, MOST)
    return whole.to(torch.int8), steps


def _steps(weight: Tensor) -> Tensor:
    return (weight.detach().float().flatten(1).abs().amax(1) / MOST).clamp_min(_TINY)


def _beside(steps: Tensor, weight: Tensor) -> Tensor:
    return steps.view(-1, *[1] * (weight.ndim - 1))


def _rounded(weight: Tensor) -> Tensor:
    """Round a weight as :func:`integers` does; gradients go straight through."""
    steps = _steps(weight)
    zeros = torch.zeros_like(steps, dtype=torch.int32)
    made = torch.fake_quantize_per_channel_affine(weight.float(), steps, zeros, 0, -MOST, MOST)
    return made.to(weight.dtype)


class _RoundsWeight:
    """Mixed into a layer's class: its weight is rounded while it runs; whoever else reads it has the parameter."""

    _parameters: dict[str, nn.Parameter]
    write_weight: Callable[[nn.Parameter], Tensor] | None = None
    runs = False

    @property
    def weight(self) -> Tensor:
        """The parameter; within a pass what it is rounded to."""
        if not self.runs:
            return self._parameters["weight"]
        write = self.write_weight
        return _rounded(self._parameters["weight"]) if write is None else write(self._parameters["weight"])

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the library's layer with the rounded weight."""
        self.runs = True
        try:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        finally:
            self.runs = False

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle and copy by the library's own class, since this one is made here."""
        return _again, (type(self).__mro__[2],), self.__dict__


def _again(kind: type[nn.Module]) -> nn.Module:
    made = _kind(kind)
    return made.__new__(made)


_MADE: dict[type[nn.Module], type[nn.Module]] = {}


def _kind(kind: type[nn.Module]) -> type[nn.Module]:
    if kind not in _MADE:
        _MADE[kind] = type(kind.__name__, (_RoundsWeight, kind), {"__module__": kind.__module__})
    return _MADE[kind]


class Rounding(nn.Module):
    """The ranges of a backbone's places, and the rounding of what comes there.

    Args:
        places: How many places there are.
    """

    ranges: Tensor

    def __init__(self, places: int) -> None:
        super().__init__()
        self.register_buffer("ranges", torch.zeros(places, 2))
        self.watch: Watch | None = None
        """What looks at numbers before they are rounded."""
        self.resting = False
        """Whether numbers pass as they are, while ranges are looked for."""
        self.write: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
        """Takes numbers, step and zero, and rounds in place of what is here, for a graph that is written."""

    def forward(self, given: Tensor, place: int, training: bool) -> Tensor:
        """Round what comes to a place.

        Args:
            given: Any shape, floating.
            place: Its number.
            training: Whether the module there trains.
        """
        if self.watch is not None:
            self.watch(self, place, given, training)
        if self.resting:
            return given
        scale, zero = scale_and_zero(self.ranges[place])
        if self.write is not None:
            return self.write(given, scale, zero)
        return torch.fake_quantize_per_tensor_affine(given.float(), scale, zero, LEAST, MOST).to(given.dtype)


class _Before:
    """Rounds what goes into a module."""

    def __init__(self, rounding: Rounding, place: int) -> None:
        self.rounding, self.place = rounding, place

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.rounding(args[0], self.place, module.training), *args[1:])


class _After:
    """Rounds what comes out of a module."""

    def __init__(self, rounding: Rounding, place: int) -> None:
        self.rounding, self.place = rounding, place

    def __call__(self, module: nn.Module, args: tuple[Any, ...], given: Tensor) -> Tensor:
        return self.rounding(given, self.place, module.training)


def attach(backbone: Backbone, how: Quantized | None) -> None:
    """Make a backbone round as its spec says; one that does already stays as it is.

    Args:
        backbone: The backbone, whole or cut; its parameters stay the objects that they are.
        how: Where; None for nowhere.

    Raises:
        ConfigError: If it names a layer or a place that is not there, or a layer whose weights cannot be rounded.
    """
    if how is None or rounding_of(backbone) is not None:
        return
    modules = dict(backbone.native.named_modules())
    for path in (*how.layers, *how.inputs, *how.outputs):
        if path not in modules:
            near = ", ".join(nearest(path, modules)) or "none like it"
            raise ConfigError(
                f"{backbone.spec.reference}: it is to round at {path[:80]!r}, which is not there; there is {near}."
            )
    for path in how.layers:
        if not takes(modules[path]):
            kind = type(modules[path]).__name__
            raise ConfigError(f"{backbone.spec.reference}: the weights of {path!r}, a {kind}, cannot be rounded.")
    rounding = Rounding(len(how.inputs) + len(how.outputs))
    for place, path in enumerate(how.inputs):
        modules[path].register_forward_pre_hook(_Before(rounding, place), prepend=True)
    for place, path in enumerate(how.outputs, len(how.inputs)):
        modules[path].register_forward_hook(_After(rounding, place), prepend=True)
    for path in how.layers:
        modules[path].__class__ = _kind(type(modules[path]))
    first = next(backbone.native.parameters(), None)
    backbone.add_module(_NAME, rounding.train(backbone.training).to(None if first is None else first.device))


def bring(backbone: Backbone, spec: BackboneSpec) -> None:
    """Make a backbone, as its provider builds it, as narrow as its spec says, and let it round where that says.

    Raises:
        ConfigError: If the spec names something that the backbone does not have.
    """
    reshape(backbone.native, spec.widths, where=spec.reference)
    attach(backbone, spec.quantized)


def rounding_of(backbone: nn.Module) -> Rounding | None:
    """Give what a backbone rounds with; None for one that does not."""
    found = backbone._modules.get(_NAME)
    return found if isinstance(found, Rounding) else None


def layers_of(backbones: Iterable[Backbone]) -> Iterator[Any]:
    """Give the layers whose weights are rounded."""
    for backbone in backbones:
        yield from (layer for layer in backbone.native.modules() if isinstance(layer, _RoundsWeight))
