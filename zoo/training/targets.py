"""From a table's label columns to the targets of a model's tasks."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from zoo.contracts.head import Task
from zoo.data import Table
from zoo.errors import DataError, UnknownName, nearest
from zoo.training.predictor import Predictor

__all__ = ["columns_of", "encode"]


def columns_of(model: Predictor, table: Table) -> dict[str, str]:
    """Find the label column of every task: the one that it names, or the only one if both are alone.

    Args:
        model: The model.
        table: The data.

    Returns:
        Task name to column name.

    Raises:
        DataError: If the model has no task, or the table no label column.
        UnknownName: If a task's column is not there.
    """
    tasks = model.tasks()
    if not tasks:
        raise DataError("The model has no head to train; build it with heads=[…].")
    if not table.columns:
        raise DataError(f"{table.source} has no labels; give a folder of class folders or a table with a label column.")
    return {name: _column(task, table, alone=len(tasks) == len(table.columns) == 1) for name, task in tasks.items()}


def _column(task: Task, table: Table, *, alone: bool) -> str:
    if task.target in table.columns:
        return task.target
    if alone and task.config.target is None:
        return next(iter(table.columns))
    near = ", ".join(nearest(task.target, table.columns) or list(table.columns)[:8])
    raise UnknownName(
        f"The head {task.spec.name!r} looks for the label column {task.target!r}; {table.source} has {near}. "
        "Name the head like its column, or set target=…."
    )


def encode(model: Predictor, table: Table, columns: Mapping[str, str]) -> dict[str, Tensor]:
    """Encode the labels of every task.

    Returns:
        Task name to targets, one a row.

    Raises:
        DataError: If a label is none of its task's.
    """
    return {name: task.encode(table.column(columns[name]).values) for name, task in model.tasks().items()}
