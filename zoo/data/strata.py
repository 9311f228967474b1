"""Strata: the rows that agree in the columns a split is to keep in proportion."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeAlias

from zoo.data.columns import Column, Value

__all__ = ["Mark", "class_marks", "joint_strata"]

Mark: TypeAlias = tuple[str, Hashable]
"""A column's name and one class of it."""

_BINS = 4


def class_marks(columns: Sequence[Column], rows: Sequence[int]) -> Mapping[int, tuple[Mark, ...]]:
    """Give the classes that each row is an example of.

    Args:
        columns: The columns; those of numbers, and of integers that are mostly different, have no classes.
        rows: Row numbers.

    Returns:
        The marks of each row; none where cells are missing.

    Example:
        >>> class_marks([Column("kind", "text", ("cat", None))], [0, 1])
        {0: (('kind', 'cat'),), 1: ()}
    """
    counted = [column for column in columns if not _is_continuous(column, rows)]

    def of(row: int) -> tuple[Mark, ...]:
        cells = [(column.name, column.values[row]) for column in counted]
        return tuple(
            (name, label)
            for name, cell in cells
            if cell is not None
            for label in (cell if isinstance(cell, tuple) else (cell,))
        )

    return {row: of(row) for row in rows}


def joint_strata(columns: Sequence[Column], rows: Sequence[int], *, smallest: int) -> list[list[int]]:
    """Group rows that agree in all columns; numbers agree if they are in the same quartile.

    Args:
        columns: The columns.
        rows: Row numbers.
        smallest: Strata of fewer rows are pooled into one.

    Returns:
        The strata in the order of their first rows, the pooled one last.
    """
    keys = [_key(column, rows) for column in columns]
    strata: dict[tuple[Hashable, ...], list[int]] = {}
    for row in rows:
        strata.setdefault(tuple(key(row) for key in keys), []).append(row)
    rare = [row for group in strata.values() if len(group) < smallest for row in group]
    return [*(group for group in strata.values() if len(group) >= smallest), rare]


def _key(column: Column, rows: Sequence[int]) -> Callable[[int], Hashable]:
    """Give the function from a row to what it must agree in."""
    values = column.values
    if not _is_continuous(column, rows):
        return lambda row: frozenset(cell) if isinstance(cell := values[row], tuple) else cell
    numbers = sorted(_numbers(values, rows))

    def quartile(row: int) -> int | None:
        cell = values[row]
        return bisect_left(numbers, cell) * _BINS // len(numbers) if isinstance(cell, (int, float)) else None

    return quartile


def _is_continuous(column: Column, rows: Sequence[int]) -> bool:
    """Say whether a column measures rather than counts classes: an integer's value does not come twice on average."""
    if column.kind != "integer":
        return column.kind == "number"
    numbers = _numbers(column.values, rows)
    return 2 * len(set(numbers)) > len(numbers)


def _numbers(values: Sequence[Value], rows: Sequence[int]) -> list[int | float]:
    return [cell for row in rows if isinstance(cell := values[row], (int, float))]
