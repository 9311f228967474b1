"""Parquet files as grids, a column at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.data.grid import Grid
from zoo.errors import DataError

__all__ = ["open_parquet"]


def open_parquet(path: Path) -> Grid:
    """Open a Parquet file.

    Args:
        path: The file. Its picture column holds paths, encoded bytes, or both as Hugging Face writes them.

    Returns:
        Its columns; each is read when asked for, and encoded pictures then stay in memory.

    Raises:
        DataError: If pyarrow is not installed, the file is no Parquet file, or two columns share a name.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(f"{path}: reading Parquet needs pyarrow: pip install 'headzoo[table]'") from error
    try:
        schema = pq.read_schema(path)
    except pa.ArrowException as error:
        raise DataError(f"{path} must be a Parquet file, got one that cannot be read: {_line(error)}.") from error
    names = tuple(schema.names)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: column names must be different, got {twice!r} twice.")

    def cells(name: str) -> list[object]:
        try:
            with pq.ParquetFile(path) as file:
                return list(file.read(columns=[name]).column(name).to_pylist())
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: column {name!r} cannot be read: {_line(error)}.") from error

    usable = frozenset(field.name for field in schema if _is_label(field.type))
    return Grid(str(path), names, usable, cells=cells, place="row {}".format)


def _is_label(kind: Any) -> bool:
    """Say whether values of an arrow type can be labels."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_label(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind):
        return _is_text(kind.value_type) or types.is_integer(kind.value_type)
    return _is_text(kind) or any(
        test(kind) for test in (types.is_integer, types.is_floating, types.is_boolean, types.is_null)
    )


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return types.is_string(kind) or types.is_large_string(kind)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160].rstrip(".")
