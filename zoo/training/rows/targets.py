"""From a table's label columns to the targets of a model's tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from torch import Tensor

from zoo.assembly import context_of
from zoo.contracts.head import Label, Task
from zoo.data import Column, Masks, Preparer, Sample, Table
from zoo.errors import ConfigError, DataError, UnknownName, nearest
from zoo.model import Model
from zoo.training.rows.batches import model_inputs
from zoo.training.rows.masks import MaskTargets, Targets
from zoo.training.rows.predictor import Predictor

__all__ = ["columns_of", "encode", "labels_of", "row_targets"]


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
    alone = len(table.columns) == 1 and len({task.target for task in tasks.values()}) == 1
    found = {name: _column(task, table, alone=alone) for name, task in tasks.items()}
    for name, column in found.items():
        _check_kind(tasks[name], table, column)
    return found


def _check_kind(task: Task, table: Table, column: str) -> None:
    """Refuse values for a head that learns masks, and masks for one that does not."""
    masks = table.column(column).kind == "mask"
    if masks and task.masks is None:
        raise DataError(
            f"{table.source}: column {column!r} holds masks, which the head {task.spec.name!r} ({task.spec.type}) does "
            "not learn; give it another column, or another head."
        )
    if not masks and task.masks is not None:
        raise DataError(
            f"{table.source}: the head {task.spec.name!r} ({task.spec.type}) learns masks, and column {column!r} holds "
            f"{table.column(column).kind}; read it with zoo.read(…, masks=[{column!r}])."
        )


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


def labels_of(column: Column) -> Sequence[Label]:
    """Give the labels of a column; masks are opened one by one, when they are asked for."""
    return Masks(column) if column.kind == "mask" else cast(Sequence[Label], column.values)


def encode(model: Predictor, table: Table, columns: Mapping[str, str]) -> dict[str, Tensor]:
    """Encode the labels of every task at once.

    Returns:
        Task name to targets, one a row.

    Raises:
        DataError: If a label is none of its task's.
        ConfigError: If a task learns masks, which are not held all at once.
    """
    for name, task in model.tasks().items():
        if task.masks is not None:
            raise ConfigError(
                f"The head {name!r} ({task.spec.type}) learns masks, which are opened row by row; what is fitted on "
                "all labels at once cannot use it."
            )
    return {name: task.encode(labels_of(table.column(columns[name]))) for name, task in model.tasks().items()}


def row_targets(model: Predictor, table: Table, columns: Mapping[str, str]) -> dict[str, Targets]:
    """Encode the labels of every task; masks are opened once to be checked, and then when their row is asked for.

    Returns:
        Task name to targets, one a row.

    Raises:
        DataError: If a label is none of its task's, or a mask has another size than its picture.
        ConfigError: If a task learns masks, and what is done to its pictures is no recipe.
    """
    found: dict[str, Targets] = {}
    for name, task in model.tasks().items():
        column = table.column(columns[name])
        if task.masks is None:
            found[name] = task.encode(labels_of(column))
            continue
        key, preparer = _followed(model, name, task)
        assert preparer.recipe is not None
        masks = tuple(value if isinstance(value, Sample) else None for value in column.values)
        found[name] = made = MaskTargets(
            task.masks, preparer.recipe, key, model_inputs(model, table)[preparer.input], masks
        )
        made.check()
    return found


def _followed(model: Predictor, name: str, task: Task) -> tuple[str, Preparer]:
    """Find the pictures that a task's masks follow: those of the stream that it reads.

    Where it reads what several streams were fused to, it is the one whose pictures are prepared largest.
    """
    preparers = model.preparers()
    keys = list(preparers)
    if isinstance(model, Model):
        streams = _streams(model, name, task)
        keys = [stream if stream in preparers else model.spec.streams[stream].input for stream in streams]
    pictures = [key for key in keys if preparers[key].modality == "image"]
    if not pictures:
        raise ConfigError(f"The head {name!r} ({task.spec.type}) learns masks, and must read a stream of pictures.")
    for key in pictures:
        if preparers[key].recipe is None:
            raise ConfigError(
                f"The head {name!r} ({task.spec.type}) learns masks, and the backbone of {key!r} prepares pictures by "
                "its library's own processor; masks need a recipe to follow, which other backbones have."
            )
    if not isinstance(model, Model) and not all(preparers[pictures[0]].like(preparers[key]) for key in pictures):
        raise ConfigError(f"The masks of {name!r} cannot follow members that prepare a picture each in its own way.")
    return max(((key, preparers[key]) for key in pictures), key=lambda found: _area(found[1]))


def _streams(model: Model, name: str, task: Task) -> list[str]:
    """Name the streams that a task reads, in the order of the model's."""
    if task.stream in model.spec.streams:
        return [task.stream]
    context = context_of(model.spec)
    read = {s for head in model.heads.values() if name in head.tasks() for s in context.needs(head.spec)}
    return [stream for stream in model.spec.streams if stream in read]


def _area(preparer: Preparer) -> int:
    size = preparer.size or (0, 0)
    return size[0] * size[1]
