"""What must hold of label columns before anything is trained on them."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.data.columns import Column, Value
from zoo.data.table import Table, name_list
from zoo.errors import DataError

__all__ = ["check_labels"]


def check_labels(table: Table, columns: Sequence[str]) -> None:
    """Refuse columns that nothing can be learned from; of masks only whether there are any is known here.

    Where the source gives a split, only its rows for training count; a row without a part is one of them.

    Args:
        table: The rows.
        columns: The columns that heads learn.

    Raises:
        UnknownName: If there is no such column; the message has the nearest names.
        DataError: If every cell of a column is missing, all have one value, or a class has rows outside train only.

    Example:
        >>> from pathlib import Path
        >>> from zoo.data import Column, FileSample, Table
        >>> pictures = (FileSample(Path("a.png")), FileSample(Path("b.png")))
        >>> table = Table("pets", {"image": pictures}, {"kind": Column("kind", "text", ("cat", "cat"))})
        >>> check_labels(table, ["kind"])
        Traceback (most recent call last):
        zoo.errors.DataError: pets: column 'kind' must have two classes or more, got one only: 'cat'.
    """
    for name in name_list("columns", columns):
        column = table.column(name)
        parts = table.split or (None,) * len(table)
        present = [(value, part) for value, part in zip(column.values, parts, strict=True) if value is not None]
        learned = [value for value, part in present if part in (None, "train")]
        held_out = [value for value, part in present if part not in (None, "train")]
        _check_learned(table, column, learned)
        _check_held_out(table, column, learned, held_out)


def _check_learned(table: Table, column: Column, learned: Sequence[Value]) -> None:
    """Refuse a column without two different values to learn from."""
    who, where = f"{table.source}: column {column.name!r}", "" if table.split is None else " in train"
    what = "values" if column.kind == "number" else "classes"
    distinct = {frozenset(value) if isinstance(value, tuple) else value for value in learned}
    if not learned:
        raise DataError(f"{who} must have a value in one row or more{where}, got empty cells only.")
    if len(distinct) == 1 and column.kind != "mask":
        only = learned[0]
        shown = (", ".join(only) or "no label") if isinstance(only, tuple) else repr(only)
        raise DataError(f"{who} must have two {what} or more{where}, got one only: {shown}.")


def _check_held_out(table: Table, column: Column, learned: Sequence[Value], held_out: Sequence[Value]) -> None:
    """Refuse a class that cannot be learned since all of its rows are held out."""
    if column.kind not in ("text", "boolean", "list"):
        return
    missing = sorted(_names(held_out) - _names(learned), key=str)
    if missing:
        told = ", ".join(map(repr, missing[:5])) + (", …" if len(missing) > 5 else "")
        raise DataError(
            f"{table.source}: classes of column {column.name!r} must have one row or more in train, but {told} "
            f"{'is' if len(missing) == 1 else 'are'} in other parts only. Move a row to train, or remove the class."
        )


def _names(values: Sequence[Value]) -> set[Value]:
    return {name for value in values for name in (value if isinstance(value, tuple) else (value,))}
