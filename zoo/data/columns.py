"""Columns: clean label values of one inferred kind."""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from zoo.data.samples import Sample
from zoo.errors import DataError

__all__ = ["Column", "Kind", "Value", "infer_column"]

Kind: TypeAlias = Literal["text", "integer", "number", "boolean", "list", "mask"]
Value: TypeAlias = str | int | float | bool | tuple[str, ...] | Sample | None


@dataclass(frozen=True, slots=True)
class Column:
    """One column of labels, a value a row.

    Args:
        name: The column's name in its source.
        kind: What every value is; "list" is several labels a row, "mask" a sample that opens to a label a pixel.
        values: The values; None where the source has none.
    """

    name: str
    kind: Kind
    values: tuple[Value, ...]


def infer_column(name: str, cells: Sequence[object], place: Callable[[int], str] = "row {}".format) -> Column:
    """Infer a column's kind from its cells and clean them.

    None, NaN and the empty text are missing. Integers and numbers together are numbers. Whole numbers with gaps are
    integers, since pandas turns integers with gaps into floats. A list is of texts or integers, without repetitions.

    Args:
        name: The column's name.
        cells: Python values, or numpy or torch scalars.
        place: Names a row for a person, given its number from 0.

    Returns:
        The column; one whose cells are all missing is of kind "text".

    Raises:
        DataError: If kinds are mixed, a number is infinite, or a cell can be no label.

    Example:
        >>> infer_column("age", [3, None, 4.5])
        Column(name='age', kind='number', values=(3.0, None, 4.5))
        >>> infer_column("tags", [["a", "b"], []]).kind
        'list'
    """
    values: list[Value] = []
    first: dict[Kind, int] = {}
    for row, cell in enumerate(cells):
        kind, value = _clean(name, cell, row, place)
        values.append(value)
        if kind is not None:
            first.setdefault(kind, row)
    if set(first) == {"integer", "number"}:
        del first["integer"]
        values = [None if value is None else _float(value) for value in values]
    if len(first) > 1:
        (one, a), (other, b) = list(first.items())[:2]
        raise DataError(
            f"Column {name!r} must hold one kind of value, got {one} in {place(a)} ({_short(cells[a])}) and {other} in "
            f"{place(b)} ({_short(cells[b])}). Correct the cells, or name the columns you need with labels=[…]."
        )
    return _whole(Column(name, next(iter(first), "text"), tuple(values)))


def _clean(name: str, cell: object, row: int, place: Callable[[int], str]) -> tuple[Kind | None, Value]:
    """Give a cell's kind and its value as plain Python; no kind if it is missing."""
    cell = _plain(cell)
    if cell is None:
        return None, None
    if isinstance(cell, str):
        return ("text", str(cell)) if cell else (None, None)
    if isinstance(cell, bool):
        return "boolean", cell
    if isinstance(cell, numbers.Integral):
        return "integer", int(cell)
    if isinstance(cell, numbers.Real):
        number = _float(cell)
        if math.isinf(number):
            raise DataError(
                f"Column {name!r} must hold finite numbers, got {number} in {place(row)}. "
                "Correct the cell, or empty it to mark it as missing."
            )
        return (None, None) if math.isnan(number) else ("number", number)
    if isinstance(cell, (list, tuple)) and all(_is_label(item) for item in cell):
        return "list", tuple(dict.fromkeys(str(item) for item in cell))
    held = f"{type(cell).__name__} of {type(cell[0]).__name__}" if isinstance(cell, (list, tuple)) else _type(cell)
    raise DataError(
        f"Column {name!r} must hold texts, numbers, booleans or lists of texts, got {held} in {place(row)}. "
        "Convert it, or name the columns you need with labels=[…]."
    )


def _plain(cell: object) -> object:
    """Turn a numpy or torch scalar, or a numpy vector, into plain Python."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and (isinstance(cell, numpy.generic) or (isinstance(cell, numpy.ndarray) and cell.ndim <= 1)):
        return cell.tolist()
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(cell, torch.Tensor) and cell.ndim == 0:
        return cell.item()
    return cell


def _is_label(item: object) -> bool:
    return isinstance(item, (str, numbers.Integral)) and not isinstance(item, bool)


def _type(cell: object) -> str:
    shape = getattr(cell, "shape", None)
    return f"{type(cell).__name__} of shape {tuple(shape)}" if shape is not None else type(cell).__name__


def _float(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        return math.inf


def _whole(column: Column) -> Column:
    """Turn a column of whole numbers with gaps into integers."""
    present = [value for value in column.values if isinstance(value, float)]
    if column.kind != "number" or len(present) == len(column.values):
        return column
    if not all(value.is_integer() and abs(value) < 2**53 for value in present):
        return column
    return Column(column.name, "integer", tuple(int(v) if isinstance(v, float) else None for v in column.values))


def _short(cell: object) -> str:
    text = repr(_plain(cell))
    return text if len(text) <= 40 else f"{text[:39]}…"
