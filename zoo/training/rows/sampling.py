"""Class-balanced sampling: training rows drawn so that every class comes as often as any other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.utils.data import Sampler

from zoo.errors import ConfigError
from zoo.model import Model
from zoo.training.rows.batches import view_seed
from zoo.training.rows.masks import Targets

__all__ = ["BalancedRows", "balanced_task", "row_weights"]

BALANCED = "balanced"


def balanced_task(model: Model, sampling: str | None) -> str | None:
    """Name the task whose classes are balanced; None where rows are drawn as they are.

    Args:
        model: The model.
        sampling: ``balanced`` for the only task of classes, or ``balanced/task``; None for each row once an epoch.

    Raises:
        ConfigError: If there is no such task, or several and none is named.
    """
    if sampling is None:
        return None
    word, slash, name = sampling.partition("/")
    fit = [name for name, task in model.tasks().items() if task.activation == "softmax" and task.masks is None]
    told = ", ".join(f"{BALANCED}/{task}" for task in fit) or "none of this model's tasks, which learn no classes"
    if word != BALANCED or (slash and name not in fit) or (not slash and len(fit) != 1):
        raise ConfigError(
            f"sampling must be {BALANCED!r}, with the task where there are several: {told}; got {sampling!r}."
        )
    return name or fit[0]


def row_weights(target: Tensor) -> Tensor:
    """Give the chance of each row: classes have equal shares, rows without a label their own.

    Args:
        target: Encoded labels of one task, ``(N,)`` int64, below 0 where missing.

    Returns:
        Chances, ``(N,)`` float64, whose sum is 1; those of the labelled rows together are their share of the rows.

    Example:
        >>> row_weights(torch.tensor([0, 0, 0, 1, -100]))[[0, 3, 4]].mul(30).round().tolist()
        [4.0, 12.0, 6.0]
    """
    known = target >= 0
    found = torch.full(target.shape, 1 / len(target), dtype=torch.float64)
    if bool(known.any()):
        counts = torch.bincount(target[known])
        present = int((counts > 0).sum())
        found[known] = known.double().mean() / (present * counts[target[known]].double())
    return found


class BalancedRows(Sampler[int]):
    """Draws as many rows an epoch as there are, with replacement, as the seed and the epoch decide.

    Args:
        weights: The chance of each row.
        seed: The run's seed.
    """

    def __init__(self, weights: Tensor, seed: int) -> None:
        self._weights, self._seed = weights, seed
        self.epoch = 0

    @classmethod
    def of(cls, task: str, targets: Mapping[str, Targets], seed: int) -> BalancedRows:
        """Balance the classes of a task's training targets."""
        target = targets[task]
        if not isinstance(target, Tensor) or target.ndim != 1 or target.is_floating_point():
            raise ConfigError(f"sampling needs one class a row, and the task {task!r} has other labels.")
        return cls(row_weights(target), seed)

    def set_epoch(self, epoch: int) -> None:
        """Tell which epoch is drawn, from 0; the engine does."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._weights)

    def __iter__(self) -> Iterator[int]:
        drawn = torch.Generator().manual_seed(view_seed(self._seed, self.epoch, -1))
        rows = torch.multinomial(self._weights, len(self._weights), replacement=True, generator=drawn)
        return iter(rows.tolist())
