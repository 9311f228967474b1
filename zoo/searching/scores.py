"""Training-free scores of networks at their first weights: for the first cut of a search."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.errors import ConfigError, UnknownName, nearest

__all__ = ["SCORES", "mean_ranks", "naswot", "read_scores", "synflow"]

_ACTIVATIONS = (
    "relu",
    "relu6",
    "hardswish",
    "swish",
    "silu",
    "mish",
    "gelu",
    "elu",
    "celu",
    "selu",
    "leakyrelu",
    "prelu",
)
_GATES = ("sigmoid", "hardsigmoid")


def synflow(net: nn.Module, pictures: Tensor) -> float:
    """Give the logarithm of the synaptic flow, summed over all parameters.

    With every parameter replaced by its absolute value and a picture of ones, ``R`` is the sum of the outputs; a
    parameter's score is ``dR/dθ · θ``, and the network's is their sum.

    Args:
        net: The network, which gives a tensor; it is left as it was.
        pictures: Any row, ``(B, C, H, W)``; its shape counts, and no value.

    Returns:
        ``log(sum of scores)``, in nats; -inf for a network through which nothing flows.

    Source:
        Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow", 2020,
        arXiv:2006.05467; as a score of whole networks, Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS",
        2021, arXiv:2101.08134. Ours: the law of conservation holds for homogeneous networks only, so batch norms and
        activations are the identity, gates of squeeze-and-excitation (sigmoids) are open, and biases are zero; all is
        computed in float64, since ``R`` grows as the product of the layers.
    """
    twin = copy.deepcopy(net).double().eval()
    _replace(twin, lambda child: nn.Identity() if _is_still(child) else _Open() if _is(child, _GATES) else None)
    with torch.no_grad():
        for name, value in twin.named_parameters():
            value.copy_(torch.zeros_like(value) if name.rpartition(".")[2] == "bias" else value.abs())
            value.requires_grad_(True)
    kept = list(twin.parameters())
    with torch.enable_grad():
        flow = twin(torch.ones(1, *pictures.shape[1:], dtype=torch.float64, device=pictures.device)).sum()
        slopes = torch.autograd.grad(flow, kept, allow_unused=True)
    total = sum(float((w.detach() * s).sum()) for w, s in zip(kept, slopes, strict=True) if s is not None)
    return math.log(total) if total > 0 else -math.inf


class _Open(nn.Module):
    """A gate that lets all through."""

    def forward(self, given: Tensor) -> Tensor:
        """Give ones."""
        return torch.ones_like(given)


def naswot(net: nn.Module, pictures: Tensor) -> float:
    """Give ``log|det K|`` of the activations' patterns, ``K[i, j] = N - hamming(code_i, code_j)``.

    The code of a row has one bit for each of the ``N`` units in front of an activation: whether it is above zero.

    Args:
        net: The network; it is left as it was.
        pictures: Rows of the data, ``(B, C, H, W)``, two or more.

    Returns:
        ``log|det K|``, in nats; -inf where two rows have one code.

    Raises:
        ConfigError: If the network has no activation that is a layer.

    Source:
        Mellor et al., "Neural Architecture Search without Training", 2021, arXiv:2006.04647. As in the
        authors' code, batch norms take the statistics of these rows; ours drops no paths and units. The paper's
        networks have ReLUs; the same bit is taken in front of other activations.
    """
    twin = copy.deepcopy(net).eval()
    kernel = torch.zeros(len(pictures), len(pictures), dtype=torch.float64)
    units = 0

    def add(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        nonlocal units
        on = (given[0].detach().flatten(1) > 0).double().cpu()
        units += on.shape[1]
        kernel.add_(on @ on.T + (1 - on) @ (1 - on).T)

    for module in twin.modules():
        if isinstance(module, _BatchNorm):
            module.train()
        if _is(module, _ACTIVATIONS):
            module.register_forward_pre_hook(add)
    with torch.no_grad():
        twin(pictures)
    if not units:
        raise ConfigError(f"naswot looks at activations, and {type(net).__name__} has none that is a layer.")
    sign, log = torch.linalg.slogdet(kernel)
    return float(log) if float(sign) else -math.inf


def _is(module: nn.Module, kinds: Sequence[str]) -> bool:
    """Say whether a module is a layer of some kind, of whatever library: ``HardSwishMe`` is a hard swish."""
    name = type(module).__name__.casefold()
    return name.removesuffix("me").removesuffix("jit") in kinds


def _is_still(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) or _is(module, _ACTIVATIONS)


def _replace(module: nn.Module, by: Callable[[nn.Module], nn.Module | None]) -> None:
    for name, child in list(module.named_children()):
        other = by(child)
        if other is None:
            _replace(child, by)
        else:
            setattr(module, name, other)


SCORES: Mapping[str, Callable[[nn.Module, Tensor], float]] = {"naswot": naswot, "synflow": synflow}
"""The scores by name; more is better."""


def read_scores(names: str | Sequence[str]) -> tuple[str, ...]:
    """Check names of scores.

    Raises:
        UnknownName: If there is no such score.
        ConfigError: If there is none, or one twice.
    """
    listed = (names,) if isinstance(names, str) else tuple(names)
    for name in listed:
        if name not in SCORES:
            near = ", ".join(nearest(str(name), SCORES) or SCORES)
            raise UnknownName(f"No training-free score is called {name!r}; there are {near}.")
    if not listed or len(set(listed)) < len(listed):
        raise ConfigError(f"scores must be one or more of {', '.join(SCORES)}, each once, got {listed!r}.")
    return listed


def mean_ranks(scored: Sequence[Mapping[str, float]]) -> list[float]:
    """Give each candidate's rank, the mean over the scores; 0 is the worst of all in each. Equals share their ranks.

    Source:
        Ranks of several scores are added by Chen et al., "Neural Architecture Search on ImageNet in Four GPU Hours",
        2021, arXiv:2102.11535.
    """
    totals = [0.0] * len(scored)
    for name in scored[0] if scored else ():
        values = [one[name] for one in scored]
        for place, value in enumerate(values):
            below = sum(other < value for other in values)
            same = sum(other == value for other in values) - 1
            totals[place] += (below + same / 2) / len(scored[0])
    return totals
