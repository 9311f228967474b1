"""A model soup: one model whose weights are the mean of several models' weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ConfigError
from zoo.model import Model
from zoo.spec import ModelSpec
from zoo.strict import to_json

__all__ = ["averaged", "check_alike"]


def averaged(models: Sequence[Model]) -> Model:
    """Give a copy of the first model with the mean of all models' weights.

    Floating tensors are averaged in float64 and rounded once, running statistics of batch norm among them, as they
    are; whole numbers, such as counts of batches, are the first model's.

    Args:
        models: Models of one architecture; see :func:`check_alike`.

    Returns:
        A new model, in eval mode.
    """
    soup = copy.deepcopy(models[0]).eval()
    states: list[dict[str, Tensor]] = [model.state_dict() for model in models]
    with torch.no_grad():
        for name, tensor in soup.state_dict().items():
            if tensor.is_floating_point():
                total = torch.zeros_like(tensor, dtype=torch.float64)
                for state in states:
                    total += state[name].to(tensor.device, torch.float64)
                tensor.copy_(total / len(states))
    return soup


def check_alike(models: Mapping[str, Model]) -> None:
    """Refuse models whose weights cannot be averaged.

    Args:
        models: Name, for the message, to model.

    Raises:
        ConfigError: If there is none, or one is of another architecture, or has other heads or tensors.
    """
    if not models:
        raise ConfigError("A soup must have at least one model, got none.")
    first, *others = models
    for name, model in models.items():
        if model.adapters:
            raise ConfigError(
                f"The adapters of {name} cannot be averaged: a mean of their factors is not that of what they add; "
                "call merge_adapters() first."
            )
    ours = _described(models[first].spec)
    state = models[first].state_dict()
    for other in others:
        difference = _difference(ours, _described(models[other].spec), "")
        if difference is not None:
            raise ConfigError(
                f"The models of a soup must be of one architecture with the same heads; {first} and {other} differ in "
                f"{difference}. Use zoo.ensemble for models that differ."
            )
        theirs = models[other].state_dict()
        for name in state.keys() ^ theirs.keys():
            raise ConfigError(
                f"The models of a soup must have the same tensors; only one of {first}, {other} has {name}."
            )
        for name, tensor in state.items():
            if (tensor.shape, tensor.dtype) != (theirs[name].shape, theirs[name].dtype):
                raise ConfigError(
                    f"The models of a soup must have the same tensors; {first} and {other} differ in {name}."
                )


def _described(spec: ModelSpec) -> Any:
    """Give what must be the same: all but where weights came from."""
    streams = {
        name: replace(entry, backbone=replace(entry.backbone, reference="", weights=None, license=None))
        for name, entry in spec.streams.items()
    }
    return to_json(replace(spec, streams=streams))


def _difference(one: Any, other: Any, path: str) -> str | None:
    """Name the first place where two trees of plain values differ, and both values."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            where = f"{path}.{key}" if path else str(key)
            if key not in one or key not in other:
                return f"{where}, which only one has"
            if (found := _difference(one[key], other[key], where)) is not None:
                return found
        return None
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        places = ((n, a, b) for n, (a, b) in enumerate(zip(one, other, strict=True)))
        return next((found for n, a, b in places if (found := _difference(a, b, f"{path}.{n}")) is not None), None)
    return None if one == other else f"{path}: {_short(one)} and {_short(other)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
