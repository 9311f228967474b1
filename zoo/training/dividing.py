"""One batch for all processes, and each one's part of it; with one process nothing is divided."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from zoo.errors import ConfigError
from zoo.model import Model
from zoo.training.ranks import Ranks
from zoo.training.rows.predictor import Predictor

__all__ = ["DividedBatches", "SameBuffers", "turns", "weighed"]


class DividedBatches(Sampler[list[int]]):
    """Divides batches as a single process would have them: each process takes the rows that are its turn.

    A batch that all processes share has ``batch_size`` rows for each of them, and no row comes twice. The last of an
    epoch is divided as evenly as it goes, and left out if that gives a process a single row, for BatchNorm's sake,
    unless it is the only one.

    Args:
        rows: What draws the rows, in all processes alike; it is told of the epoch if it has ``set_epoch``.
        count: How many rows it draws.
        batch_size: Rows in the part of a process.
        ranks: The processes.
        epoch: Gives the epoch that begins, from 0.

    Raises:
        ConfigError: If there is not a row for each process.
    """

    def __init__(
        self, rows: Sampler[int], count: int, *, batch_size: int, ranks: Ranks, epoch: Callable[[], int]
    ) -> None:
        if count < ranks.count:
            raise ConfigError(f"{count} training rows cannot be divided among {ranks.count} processes; start fewer.")
        self._rows, self._ranks, self._epoch = rows, ranks, epoch
        self._whole = batch_size * ranks.count
        full, rest = divmod(count, self._whole)
        self._count = full + (rest >= 2 * ranks.count or (rest > 0 and full == 0))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[int]]:
        if hasattr(self._rows, "set_epoch"):
            self._rows.set_epoch(self._epoch())
        for _, batch in zip(range(self._count), BatchSampler(self._rows, self._whole, drop_last=False), strict=False):
            share, more = divmod(len(batch), self._ranks.count)
            number = self._ranks.number
            start = number * share + min(number, more)
            yield batch[start : start + share + (number < more)]


def turns(model: Predictor, count: int, batch_size: int, ranks: Ranks) -> list[list[int]]:
    """Give the batches of rows that this process measures: every so many-th, in the order of the rows.

    Where a task gives whole masks the first process measures all, since they are too large to be sent to it.

    Args:
        model: What is measured.
        count: How many rows there are.
        batch_size: Rows in a batch.
        ranks: The processes.
    """
    every = [list(range(start, min(start + batch_size, count))) for start in range(0, count, batch_size)]
    if any(task.masks is not None for task in model.tasks().values()):
        return every if ranks.first else []
    return every[ranks.number :: ranks.count]


def weighed(
    model: Model, losses: Mapping[str, Tensor], targets: Mapping[str, Tensor], ranks: Ranks
) -> dict[str, Tensor]:
    """Weigh losses so that their mean over the processes is the mean over the labelled rows of all of them.

    A process's own loss of a task is a mean over its labels, of which it may have more than another, or none. Tasks
    that a head balances stay as they are: their weights are learnt from each process's own losses.

    Args:
        model: The model.
        losses: Task name to the loss of this process's rows.
        targets: Task name to encoded targets.
        ranks: The processes.
    """
    tasks = model.tasks()
    balanced = {name for head in model.heads.values() if head.balances for name in head.tasks()}
    names = [name for name in losses if name in tasks and name not in balanced]
    if not ranks.several or not names:
        return dict(losses)
    like = losses[names[0]]
    counts = [tasks[name].known(targets[name]).sum() if name in targets else torch.zeros(()) for name in names]
    own = torch.stack([count.to(like.device, torch.float32) for count in counts])
    shares = own * ranks.count / ranks.sum(own.clone()).clamp(min=1)
    return {**losses, **{name: losses[name] * share for name, share in zip(names, shares, strict=True)}}


class SameBuffers(TrainerCallback):
    """Gives all processes the running statistics of the first one when an epoch ends, before anything is judged.

    Args:
        model: The model.
        ranks: The processes.
    """

    def __init__(self, model: Model, ranks: Ranks) -> None:
        self._model, self._ranks = model, ranks

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make them the same."""
        self._ranks.equalize(self._model.buffers())
