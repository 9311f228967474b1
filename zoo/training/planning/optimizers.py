"""Optimizers: any of torch's by name, or one of the user's own; what cannot work here is refused with the reason."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from zoo.errors import ConfigError, UnknownName, nearest
from zoo.strict import check_options

__all__ = ["REFUSED", "MakesOptimizer", "check_optimizer", "make_optimizer", "optimizers"]

MakesOptimizer = str | Callable[[list[dict[str, Any]]], Optimizer]
"""The name of an optimizer of torch, or a function from groups to an optimizer."""

REFUSED = {
    "LBFGS": "it evaluates the loss several times in each step, and allows one learning rate only",
    "SparseAdam": "it takes sparse gradients only, and those of a model here are dense",
    "Muon": "it takes matrices only, and models have biases, norms and convolutions as well",
}
"""Optimizers of torch that cannot train a model here, with the reason."""

_OURS = {"params", "lr", "weight_decay"}
"""What zoo.fit has keywords for."""


def optimizers() -> dict[str, type[Optimizer]]:
    """Give the optimizers of the installed torch by name, without those that are refused."""
    found = {name: value for name, value in vars(torch.optim).items() if inspect.isclass(value) and name not in REFUSED}
    return {name: value for name, value in found.items() if issubclass(value, Optimizer) and value is not Optimizer}


def check_optimizer(optimizer: MakesOptimizer, settings: Mapping[str, Any], *, weight_decay: float) -> None:
    """Refuse an optimizer that could not be made or could not work, before any data is read.

    Args:
        optimizer: The user's choice.
        settings: Its settings, but for the rate and the weight decay.
        weight_decay: The weight decay.

    Raises:
        UnknownName: If there is no such optimizer, or a setting is not known.
        ConfigError: If it cannot work here, or a setting cannot be used.
    """
    if isinstance(optimizer, str):
        kind = _kind(optimizer)
        if weight_decay and "weight_decay" not in inspect.signature(kind).parameters:
            raise ConfigError(f"{kind.__name__} has no weight decay; set weight_decay=0, got {weight_decay}.")
        parameter = torch.nn.Parameter(torch.zeros(1, 1))
        _make(kind, [{"params": [parameter], "lr": 1e-3, "weight_decay": weight_decay}], settings)
    elif not callable(optimizer):
        raise ConfigError(f"optimizer must be a name or a function of groups, got {optimizer!r}.")
    elif settings:
        raise ConfigError("optimizer is a function, which has its own settings; leave optimizer_settings out.")


def make_optimizer(optimizer: MakesOptimizer, groups: list[dict[str, Any]], settings: Mapping[str, Any]) -> Optimizer:
    """Make an optimizer of groups.

    Args:
        optimizer: The name of a class of ``torch.optim``, in any case, or a function from groups to an optimizer.
        groups: As :func:`zoo.training.planning.groups.parameter_groups` gives them; they are not changed.
        settings: Settings of the class, but for the rate and the weight decay.

    Raises:
        UnknownName: If there is no such optimizer, or a setting is not known.
        ConfigError: If it cannot work here, a setting cannot be used, or the function gives something else.
    """
    own = [{**group, "params": list(group["params"])} for group in groups]
    if isinstance(optimizer, str):
        return _make(_kind(optimizer), own, settings)
    made = optimizer(own)
    if not isinstance(made, Optimizer):
        raise ConfigError(f"optimizer must give an optimizer of torch, got {type(made).__name__}.")
    if type(made).__name__ in REFUSED and type(made) is getattr(torch.optim, type(made).__name__, None):
        raise ConfigError(f"{type(made).__name__} cannot train here: {REFUSED[type(made).__name__]}.")
    return made


def _kind(name: str) -> type[Optimizer]:
    """Find a class by its name in any case."""
    reasons = {refused.casefold(): (refused, reason) for refused, reason in REFUSED.items()}
    if name.casefold() in reasons:
        refused, reason = reasons[name.casefold()]
        raise ConfigError(f"{refused} cannot train here: {reason}; take another, such as adamw.")
    known = {kind.casefold(): value for kind, value in optimizers().items()}
    if name.casefold() not in known:
        near = nearest(name, known) or sorted(known)
        raise UnknownName(f"torch.optim has no optimizer {name!r}; it has {', '.join(near)}.")
    return known[name.casefold()]


def _make(kind: type[Optimizer], groups: list[dict[str, Any]], settings: Mapping[str, Any]) -> Optimizer:
    takes = set(inspect.signature(kind).parameters) - _OURS
    if taken := sorted(_OURS & set(settings)):
        raise ConfigError(f"{taken[0]} is no setting of the optimizer here; zoo.fit has a keyword for it.")
    check_options(f"The optimizer {kind.__name__}", settings, takes)
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
    }
    try:
        return kind(groups, **given)
    except (TypeError, ValueError, RuntimeError) as error:
        told = " ".join(str(error).split())
        raise ConfigError(f"The optimizer {kind.__name__} cannot use {dict(settings)}: {told}.") from error
