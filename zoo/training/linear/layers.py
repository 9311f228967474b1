"""Heads that are linear in a pooled vector: which they are, and how they learn on standardised features.

A linear layer on features whose dimensions have different means and spreads learns slowly, since one learning rate must
serve them all. So while heads learn on kept features, such a layer sees each dimension with mean 0 and deviation 1 over
the training rows, and its weights are those for that. Before and after, they are written back: the layer computes the
same function, and the saved model needs nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.contracts.features import Features
from zoo.errors import ConfigError, ZooError
from zoo.model import Model

__all__ = [
    "FirstLayer",
    "Scale",
    "check_linear",
    "first_layers",
    "scale_of",
    "standardised",
    "without_scales",
    "written",
]

FLOOR = 1e-5
"""Least deviation of a dimension, as a share of its root mean square: what varies by rounding only is left as it is."""


@dataclass(frozen=True, slots=True, eq=False)
class FirstLayer:
    """A linear layer of a head that reads the pooled vector of a stream as it is.

    Args:
        layer: The layer.
        stream: The stream.
    """

    layer: nn.Linear
    stream: str


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """Mean and deviation of each dimension of a stream's pooled vector over the training rows.

    Shape:
        - ``mean``, ``std``: ``(D,)`` float64 on the CPU.
    """

    mean: Tensor
    std: Tensor
    _ready: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def __call__(self, pooled: Tensor, *, shift: bool = True) -> Tensor:
        """Standardise vectors, ``(B, D)``; without ``shift`` the mean stays."""
        if (key := (pooled.device, pooled.dtype)) not in self._ready:
            self._ready[key] = -self.mean.div(self.std).to(pooled), self.std.reciprocal().to(pooled)
        moved, factor = self._ready[key]
        return torch.addcmul(moved, pooled, factor) if shift else pooled * factor


def first_layers(model: Model, features: Mapping[str, Features]) -> list[FirstLayer]:
    """Find the linear layers that read a pooled vector as it is and may learn, by a pass of the heads in eval mode.

    Args:
        model: The model, on the device of the features.
        features: Features of a few rows.
    """
    layers = {id(m): m for m in model.heads.modules() if type(m) is nn.Linear and m.weight.requires_grad}
    readings: dict[int, set[str | None]] = {key: set() for key in layers}

    def look(key: int, layer: nn.Module, given: tuple[Any, ...]) -> None:
        readings[key].add(next((s for s, one in features.items() if _same(given[0], one.pooled)), None))

    hooks = [layer.register_forward_pre_hook(partial(look, key)) for key, layer in layers.items()]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model.score(features)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    found = []
    for key, read in readings.items():
        streams = list(read)
        if len(streams) == 1 and streams[0] is not None:
            found.append(FirstLayer(layers[key], streams[0]))
    return found


def scale_of(pooled: Tensor) -> Scale:
    """Measure mean and deviation of each dimension.

    Shape:
        - ``pooled``: ``(N, D)``, N 1 or more.
    """
    rows = pooled.detach().float()
    every = rows.new_full((len(rows),), 1 / len(rows))  # products with it are quicker than sums along the first axis
    middle = every @ rows
    mean, variance = middle.cpu().double(), (every @ (rows - middle).square_()).cpu().double()
    varies = variance.sqrt() > FLOOR * (variance + mean.square()).sqrt()
    return Scale(mean, variance.sqrt().where(varies, torch.ones_like(mean)))


@contextmanager
def standardised(layers: list[FirstLayer], scales: Mapping[str, Scale]) -> Iterator[None]:
    """Let layers learn on standardised features for as long as the context is open; what they compute is the same.

    Args:
        layers: The layers; one without a bias sees the deviations scaled and the means as they are.
        scales: Stream to the scale of its pooled vector.
    """
    hooks = [one.layer.register_forward_pre_hook(partial(_standardise, scales[one.stream])) for one in layers]
    try:
        with written(layers, scales):
            yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def written(layers: list[FirstLayer], scales: Mapping[str, Scale]) -> Iterator[None]:
    """Let layers have weights for standardised features for as long as the context is open; what gives them sees to it.

    Args:
        layers: The layers.
        scales: Stream to the scale of its pooled vector.
    """
    done = []
    try:
        for one in layers:
            _rewrite(one.layer, scales[one.stream], into=True)
            done.append(one)
        yield
    finally:
        for one in done:
            _rewrite(one.layer, scales[one.stream], into=False)


@contextmanager
def without_scales(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Write the weights of layers that learn on standardised features as those features are, for a while.

    Afterwards each has the very weights that it had; going there and back would round them.

    Args:
        model: The model that has the layers.

    Returns:
        Key in the state dict to the weights that the layers learn with; empty where none is so.
    """
    held = [
        (path, layer, hook.args[0])
        for path, layer in model.named_modules()
        for hook in layer._forward_pre_hooks.values()
        if isinstance(hook, partial) and hook.func is _standardise and isinstance(layer, nn.Linear)
    ]
    kept = {
        f"{path}.{name}": each.detach().clone() for path, layer, _ in held for name, each in layer.named_parameters()
    }
    for _, layer, scale in held:
        _rewrite(layer, scale, into=False)
    try:
        yield kept
    finally:
        with torch.no_grad():
            for path, layer, _ in held:
                for name, each in layer.named_parameters():
                    each.copy_(kept[f"{path}.{name}"])


def _standardise(scale: Scale, layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return (scale(given[0], shift=layer.bias is not None), *given[1:])


def _rewrite(layer: nn.Linear, scale: Scale, *, into: bool) -> None:
    """Write a layer's weights for standardised features, or back for those as they are."""
    with torch.no_grad():
        exact = layer.weight.detach().cpu().double()
        raw = exact if into else exact / scale.std
        layer.weight.copy_(exact * scale.std if into else raw)
        if layer.bias is not None:
            moved = raw @ scale.mean
            layer.bias.add_((moved if into else -moved).to(layer.bias))


def check_linear(model: Model) -> None:
    """Refuse heads that are not linear: outputs affine in all their parameters, the same in training and evaluation.

    Raises:
        ConfigError: If a head is not, or reads more than pooled vectors.
    """
    draw = torch.Generator().manual_seed(0)
    given = {
        stream: Features(pooled=torch.randn(4, entry.backbone.pooled_dim, generator=draw))
        for stream, entry in model.spec.streams.items()
    }
    for name, head in model.heads.items():
        if head.balances:
            raise _refused(name, "weighs its tasks by what they share")
        place = next((p.device for p in head.parameters()), torch.device("cpu"))
        try:
            reason = _not_affine(head.cpu(), given)
        except (ZooError, AttributeError, TypeError):
            reason = "reads more than the pooled vector"
        finally:
            head.to(place)
        if reason:
            raise _refused(name, reason)


def _not_affine(head: nn.Module, given: Mapping[str, Features]) -> str | None:
    """Say what keeps a head from being linear; its parameters, mode and the global generator stay as they were."""
    parameters = [p for p in head.parameters() if p.requires_grad]
    held, was_training = [p.detach().clone() for p in parameters], head.training
    draw = torch.Generator().manual_seed(1)
    ends = [[torch.randn(p.shape, generator=draw) / max(1, p[0].numel() if p.ndim else 1) ** 0.5 for p in parameters]
            for _ in range(2)]  # fmt: skip
    middle = [(a + b) / 2 for a, b in zip(*ends, strict=True)]
    try:
        with torch.random.fork_rng([]):
            trained = _outputs(head.train(), given)
            shaken = _outputs(head, given)
        plain = _outputs(head.eval(), given)
        if not (_close(trained, plain) and _close(shaken, plain)):
            return "computes something else in training, such as dropout"
        found = []
        for values in (*ends, middle):
            with torch.no_grad():
                for parameter, value in zip(parameters, values, strict=True):
                    parameter.copy_(value)
            found.append(_outputs(head, given))
        outputs: list[Tensor] = list(head(given).values())
        gradients = torch.autograd.grad([one.sum() for one in outputs], parameters, allow_unused=True)
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, held, strict=True):
                parameter.copy_(value)
        head.train(was_training)
    if any(gradient is None for gradient in gradients):
        return "has parameters that its output does not depend on"
    halfway = {name: (value + found[1][name]) / 2 for name, value in found[0].items()}
    return None if _close(halfway, found[2]) else "is not linear in its parameters"


def _outputs(head: nn.Module, given: Mapping[str, Features]) -> dict[str, Tensor]:
    with torch.no_grad():
        return {name: value.double() for name, value in head(given).items()}


def _close(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.allclose(value, other[name], rtol=1e-4, atol=1e-4) for name, value in one.items())


def _refused(name: str, reason: str) -> ConfigError:
    return ConfigError(f"solver='lbfgs' is for linear heads, and {name!r} {reason}; use solver='sgd' for it.")


def _same(given: Any, pooled: Tensor | None) -> bool:
    """Say whether a tensor is the pooled vector itself, not a copy of it."""
    if pooled is None or not isinstance(given, Tensor):
        return False
    return given.data_ptr() == pooled.data_ptr() and given.shape == pooled.shape and given.stride() == pooled.stride()
