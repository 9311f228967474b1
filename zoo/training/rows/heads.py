"""Heads from data: the label columns decide which heads a model needs and what their classes are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.assembly import HeadLike
from zoo.contracts.head import HeadContext
from zoo.data import Column, Table, read
from zoo.data.table import name_list
from zoo.errors import DataError
from zoo.registry import registry
from zoo.spec import HeadSpec
from zoo.training.rows.targets import labels_of

__all__ = ["infer_heads"]

MOST_INTEGER_CLASSES = 20
"""Whole numbers with at most this many different values are classes; with more they are a quantity."""


def infer_heads(
    data: Table | str | Path | Any, *, targets: Sequence[str] = (), heads: Sequence[HeadLike] = ()
) -> list[HeadSpec]:
    """Describe the heads that a data set's labels call for, with their classes.

    Text, booleans, lists and whole numbers of at most 20 different values become classifiers; other numbers become
    regressions, masks segmentations.

    Args:
        data: As for ``zoo.fit``.
        targets: Label columns to make heads for; all by default.
        heads: Heads to complete with their classes instead.

    Raises:
        UnknownName: If there is no such column.
        DataError: If the data has no label, or labels that a head cannot learn.
    """
    table = read(data)
    if not table.columns:
        raise DataError(f"{table.source} has no labels; give a folder of class folders or a table with a label column.")
    wanted = [HeadSpec.of(head) for head in heads]
    wanted = wanted or _heads_for([table.column(name) for name in name_list("targets", targets) or table.columns])
    columns: dict[str, Any] = {name: labels_of(column) for name, column in table.columns.items()}
    if len(wanted) == len(columns) == 1 and wanted[0].config.get("target") is None:
        columns.setdefault(wanted[0].name, next(iter(columns.values())))
    context = HeadContext({}, registry().head_class)
    return [context.lookup(head.type).complete(head, columns, context) for head in wanted]


def _heads_for(columns: Sequence[Column]) -> list[HeadSpec]:
    """Describe a head for each column; names that two columns would share get a number."""
    heads: list[HeadSpec] = []
    for column in columns:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", column.name).strip("_-")[:64] or "label"
        taken = {head.name for head in heads} | {other.name for other in columns if other is not column}
        name = next(name for name in (plain, *(f"{plain[:60]}_{n}" for n in range(2, 1000))) if name not in taken)
        heads.append(_head_for(column, name))
    return heads


def _head_for(column: Column, name: str) -> HeadSpec:
    config = {} if name == column.name else {"target": column.name}
    if column.kind == "mask":
        return HeadSpec(type="segmentation", name=name, config=config)
    values = {value for value in column.values if value is not None}
    quantity = column.kind == "number" or (column.kind == "integer" and len(values) > MOST_INTEGER_CLASSES)
    return HeadSpec(type="regression" if quantity else "classifier", name=name, config=config)
