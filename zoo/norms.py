"""Norms with running statistics, given those of rows that are passed through the model once more."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from zoo.errors import ConfigError

__all__ = ["measure_norms", "norms_that_follow", "running_norms"]


def running_norms(model: nn.Module) -> list[Any]:
    """Give the norms of a model that keep running statistics."""
    return [one for one in model.modules() if isinstance(one, _BatchNorm) and one.running_var is not None]


def norms_that_follow(model: nn.Module) -> list[Any]:
    """Give the norms whose running statistics follow batches in training: those of frozen stages do not.

    Args:
        model: The model, in any mode, which it keeps.
    """
    mode = model.training
    model.train()
    found = [norm for norm in running_norms(model) if norm.training]
    model.train(mode)
    return found


@torch.no_grad()
def measure_norms(model: nn.Module, batches: Iterable[Any], *, told: str) -> int:
    """Give the norms the mean and variance of what they see of these rows, and no other tensor a new value.

    A batch passes with its own statistics, as in training, and the mean and the unbiased variance over all rows are
    put together of those of the batches. A batch of one row is left out.

    Args:
        model: The model; it is in eval mode afterwards.
        batches: What the model takes.
        told: What the rows are, for the message.

    Returns:
        How many norms were given new statistics.

    Raises:
        ConfigError: If there are norms, and no batch of two rows or more.

    Source:
        Li et al., "Revisiting Batch Normalization For Practical Domain Adaptation", 2016, arXiv:1603.04779, algorithm
        1. Ours computes all layers in one pass, where each layer sees what the batch statistics below it give.
    """
    norms = norms_that_follow(model)
    model.eval()  # dropout rests while norms take the statistics of batches
    seen = [_Moments() for _ in norms]
    handles = [
        norm.register_forward_pre_hook(partial(_note, moments)) for norm, moments in zip(norms, seen, strict=True)
    ]
    kept = [(norm, norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    try:
        for norm in norms:
            norm.train()
            norm.momentum = 0.0  # running statistics stay as they are
        for inputs in batches if norms else ():
            if len(tree_leaves(inputs)[0]) > 1:
                model(inputs)
    finally:
        for handle in handles:
            handle.remove()
        for norm, momentum, tracked in kept:
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(tracked)
        model.eval()
    if norms and not any(moments.count for moments in seen):
        raise ConfigError(f"The statistics of norms are of two rows or more; {told} has fewer.")
    found = [(norm, moments) for norm, moments in zip(norms, seen, strict=True) if moments.count > 1]
    for norm, moments in found:
        norm.running_mean.copy_(moments.mean)
        norm.running_var.copy_(moments.squares / (moments.count - 1))
    return len(found)


class _Moments:
    """Mean and summed squared deviations of channels, batch after batch."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0
        self.squares: Any = 0.0

    def add(self, values: Tensor) -> None:
        """Take in values, ``(B, C, …)``."""
        rows = values.double().transpose(0, 1).flatten(1)
        count, mean = rows.shape[1], rows.mean(dim=1)
        total = self.count + count
        apart = mean - self.mean
        self.squares = (
            self.squares + (rows - mean[:, None]).square().sum(dim=1) + apart.square() * (self.count * count / total)
        )
        self.mean = self.mean + apart * (count / total)
        self.count = total


def _note(moments: _Moments, norm: nn.Module, given: tuple[Tensor, ...]) -> None:
    moments.add(given[0])
