"""Predictions as a CSV file that a spreadsheet can open without running anything in it."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ConfigError, escape

if TYPE_CHECKING:
    from zoo.cli.pictures import Predicted

__all__ = ["check_file", "guard", "write_csv"]


def guard(cell: object) -> str:
    """Write a cell so that no spreadsheet takes it for a formula, and no terminal for a command; numbers stay.

    Example:
        >>> guard("=1+1"), guard("-0.5"), guard("cat"), guard(None)
        ("'=1+1", '-0.5', 'cat', '')
    """
    text = "" if cell is None else escape(str(cell), keep="\n\r\t")
    if not text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def check_file(path: Path) -> None:
    """Refuse a file that could not be written, before anything is predicted.

    Raises:
        ConfigError: If it is a folder, or its folder is not there or cannot be written.
    """
    folder = path.absolute().parent
    if path.is_dir():
        raise ConfigError(f"--csv must be a file, got the folder '{path}'.")
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"--csv '{path}' cannot be written: the folder '{folder}' is not there or not writable.")


def write_csv(path: Path, rows: Sequence[Predicted]) -> None:
    """Write one line a picture, whole or not at all: UTF-8, a column for every value, ``error`` last."""
    cells = [dict(_cells(row.predictions)) for row in rows]
    columns = list(dict.fromkeys(column for row in cells for column in row))
    handle, temporary = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([guard(name) for name in ("picture", *columns, "error")])
            for row, values in zip(rows, cells, strict=True):
                told = (row.path, *(values.get(name) for name in columns), row.reason)
                writer.writerow([guard(cell) for cell in told])
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _cells(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Flatten nested values to ``task.key.key``; lists are joined with ``;``."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _cells(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)):
            yield f"{prefix}{key}", ";".join(map(str, value))
        else:
            yield f"{prefix}{key}", value


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
