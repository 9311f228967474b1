"""Few shots: so many labelled rows of each class, drawn by seed; the others are left out."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from zoo.data import Table
from zoo.errors import ConfigError, DataError
from zoo.model import Model
from zoo.training.rows.batches import view_seed
from zoo.training.rows.targets import labels_of

__all__ = ["drawn_shots", "shots_task"]


def shots_task(model: Model, shots: int | None, decides: str) -> str | None:
    """Name the task of whose classes so many rows each are drawn; None where all rows are taken.

    Args:
        model: The model.
        shots: Rows of each class; None for all.
        decides: What the best epoch is chosen by, ``loss``, ``tasks`` or ``task/metric``.

    Raises:
        ConfigError: If no task, or no single one, tells classes apart.
    """
    if shots is None:
        return None
    fit = [name for name, task in model.tasks().items() if task.activation == "softmax" and task.masks is None]
    named = decides.partition("/")[0]
    if named in fit:
        return named
    if len(fit) != 1:
        told = f"it has {', '.join(fit)}; choose one by select='task/metric'" if fit else "it has none"
        raise ConfigError(f"shots={shots} draws rows of each class of the task that decides, and of such {told}.")
    return fit[0]


def drawn_shots(
    model: Model, parts: Mapping[str, Table], columns: Mapping[str, str], task: str, shots: int, seed: int
) -> dict[str, Table]:
    """Keep so many training rows of each class, in their order; the other parts stay whole.

    Args:
        model: The model.
        parts: ``train``, and others.
        columns: Task name to label column.
        task: The task whose classes count.
        shots: Rows of each class, 1 or more.
        seed: Seed of the draw.

    Raises:
        DataError: If a class has fewer training rows.
    """
    table = parts["train"]
    labels = labels_of(table.column(columns[task]))
    target = model.task(task).encode(labels)
    named = {int(code): str(label) for code, label in zip(target.tolist(), labels, strict=True) if code >= 0}
    drawn = torch.Generator().manual_seed(view_seed(seed, shots, -3))
    kept: list[int] = []
    for code in range(len(getattr(model.task(task).config, "classes", None) or named)):
        rows = torch.nonzero(target == code).flatten()
        if len(rows) < shots:
            name = named.get(code) or str(model.task(task).config.classes[code])
            raise DataError(
                f"shots={shots} needs as many labelled training rows of each class of {task!r}, and {name!r} has "
                f"{len(rows)}; label more, take fewer shots, or a smaller validation part."
            )
        kept += rows[torch.randperm(len(rows), generator=drawn)[:shots]].tolist()
    return {**parts, "train": table.select(sorted(kept))}
