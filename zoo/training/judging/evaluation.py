"""Metrics of a model on data: each task by its own, samples without a label left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from zoo.data import Table, placed
from zoo.errors import ConfigError, DataError
from zoo.training.judging.history import Metrics
from zoo.training.ranks import Ranks
from zoo.training.rows.batches import Collator, SampleRows
from zoo.training.rows.predictor import Predictor
from zoo.training.rows.tables import read_for
from zoo.training.rows.targets import columns_of, row_targets

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

__all__ = ["TaskMeter", "evaluate", "measure", "part_of", "pick_device"]


class TaskMeter:
    """Loss and metrics of all tasks over the batches of a data set.

    Args:
        model: The model whose tasks are measured.
        device: Where the metrics are kept.
    """

    def __init__(self, model: Predictor, device: torch.device) -> None:
        self._model = model
        self._metrics: dict[str, MetricCollection] = {
            name: task.metrics().to(device) for name, task in model.tasks().items()
        }
        from torchmetrics import Metric

        for metrics in self._metrics.values():
            for metric in metrics.modules():
                if isinstance(metric, Metric):
                    metric.distributed_available_fn = _alone  # what other processes measure is no part of this
        self._loss = dict.fromkeys(self._metrics, 0.0)
        self._labels = dict.fromkeys(self._metrics, 0)

    def update(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], losses: Mapping[str, Tensor]
    ) -> None:
        """Feed a batch; a task's loss counts by its labels, so that it does not depend on how rows fall in batches."""
        for name, task in self._model.tasks().items():
            if name in targets and (labels := int(task.known(targets[name]).sum())):
                self._loss[name] += losses[name].item() * labels
                self._labels[name] += labels
                task.update(self._metrics[name], outputs[name].float(), targets[name])

    def result(self) -> tuple[float, Metrics]:
        """Give the sum of the tasks' mean losses, and the metrics; a task without any label here has no entry."""
        found = {}
        for name, metrics in self._metrics.items():
            if all(metric.update_called for metric in metrics.values(copy_state=False)):
                found[name] = {key: float(value) for key, value in metrics.compute().items()}
        loss = sum(self._loss[name] / count for name, count in self._labels.items() if count)
        return loss, found


def _alone() -> bool:
    return False


def measure(
    model: Predictor,
    batches: Iterable[Mapping[str, Any]],
    run: Callable[[Mapping[str, Any]], Mapping[str, Tensor]],
    device: torch.device,
    *,
    ranks: Ranks | None = None,
) -> tuple[float, Metrics]:
    """Measure a model over batches, in eval mode and without gradients.

    Several processes run the batches that are their :func:`~zoo.training.dividing.turns`; the first one measures the
    outputs of all in their order, each row once, and tells the others what it found, so that they all decide alike.

    Args:
        model: The model.
        batches: As :class:`zoo.training.rows.batches.Collator` makes them.
        run: From a batch on the device to the outputs.
        device: Where to run.
        ranks: The processes that measure together; None for this one alone.
    """
    ranks = ranks or Ranks()
    was_training = model.training
    model.eval()
    meter = TaskMeter(model, device)
    try:
        with torch.no_grad():
            for batch in _rounds(batches, ranks):
                part: list[Any] = []
                if batch is not None:
                    here = placed(batch, device)
                    outputs = run(here)
                    part = [outputs, here["targets"], model.losses(outputs, here["targets"])]
                for outputs, known, losses in _parts(part, ranks, device):
                    meter.update(outputs, known, losses)
    finally:
        model.train(was_training)
    return ranks.same(meter.result() if ranks.first else (0.0, {}))


def _parts(part: list[Any], ranks: Ranks, device: torch.device) -> list[list[Any]]:
    """Give the first process what all have of a round, in their order; its own part goes nowhere."""
    if not ranks.several:
        return [part]
    sent = [] if ranks.first else [placed(each, torch.device("cpu")) for each in part]
    others = [[placed(one, device) for one in other] for other in ranks.collect(sent)[1:]]
    return [each for each in (part, *others) if each] if ranks.first else []


def _rounds(batches: Iterable[Mapping[str, Any]], ranks: Ranks) -> Iterator[Mapping[str, Any] | None]:
    """Give batches, and None where only other processes have one more."""
    if not ranks.several:
        yield from batches
        return
    held: Any = batches
    own = iter(held)
    for _ in range(max(ranks.every(len(held)))):
        yield next(own, None)


def evaluate(
    model: Predictor,
    data: Table | str | Path | Any,
    *,
    split: str | None = None,
    batch_size: int = 32,
    device: str = "auto",
    strict: bool = False,
) -> Metrics:
    """Measure every task of a model, or of an ensemble, on labelled data.

    Args:
        model: The model or ensemble.
        data: As for ``zoo.fit``.
        split: Only the rows of this part, as the data gives it: ``train``, ``validation`` or ``test``.
        batch_size: Pictures in one pass, 1 or more.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        strict: Whether an unreadable picture is an error.

    Returns:
        Task name to metric name to value; a task without any label in the data has no entry.

    Raises:
        DataError: If the data cannot be used, or has no rows in the split.
        UnknownName: If a task's label column is not there.
        ConfigError: If the device or batch size cannot be used.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be 1 or more, got {batch_size}.")
    table = read_for(model, data, strict=strict)
    if split is not None:
        table = part_of(table, split)
    place = pick_device(device)
    targets = row_targets(model, table, columns_of(model, table))
    rows_ = SampleRows(model, table, targets)
    loader = DataLoader(rows_, batch_size=batch_size, collate_fn=Collator(model.preparers()))
    model.to(place)
    return measure(model, loader, lambda batch: model(batch["inputs"]), place)[1]


def part_of(table: Table, split: str) -> Table:
    """Take the rows of one part of a table.

    Raises:
        DataError: If there are none.
    """
    rows = [row for row, part in enumerate(table.split or ()) if part == split]
    if not rows:
        have = ", ".join(sorted({str(part) for part in table.split or ()})) or "none"
        raise DataError(f"{table.source} has no rows in the split {split!r}; its splits are {have}.")
    return table.select(rows)


def pick_device(device: str) -> torch.device:
    """Choose a device by name; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: If it is not there.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if there[name]))
    if device not in there:
        raise ConfigError(f"device must be auto, cpu, cuda or mps, got {device!r}; choose a GPU by its environment.")
    if not there[device]:
        have = ", ".join(name for name, ok in there.items() if ok)
        raise ConfigError(f"The device {device!r} is not there; this machine has {have}.")
    return torch.device(device)
