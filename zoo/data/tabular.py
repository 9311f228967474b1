"""Tables in files: CSV here, Parquet through `zoo.data.parquet`; both name their pictures in a column."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from zoo.data.drafts import Draft
from zoo.data.grid import Grid, chosen_columns, encoded_sample, image_column, text_samples
from zoo.data.masks import mask_samples
from zoo.data.parquet import open_parquet
from zoo.data.pictures import UnreadableSample
from zoo.data.samples import FileSample, Sample
from zoo.data.table import Skipped
from zoo.data.wanted import Wanted
from zoo.errors import DataError

if TYPE_CHECKING:
    from _csv import Reader

__all__ = ["TABLE_SUFFIXES", "parse_cells", "read_tabular"]

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})")  # 007 and longer codes are names, not numbers
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_CODE = re.compile(r"[+-]?(0[0-9]+|[0-9]{19,})")
_INFINITE = {"inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"}
_BOOLEAN = {"true": True, "false": False}


def read_tabular(path: Path, *, inputs: Wanted, labels: Sequence[str] | None, split: str | None) -> Draft:
    """Read a CSV, TSV or Parquet file.

    Args:
        path: The file. Paths in its picture column are relative to its folder.
        inputs: The columns of pictures, texts and masks; a picture column that is not named is the first with a usual
            name.
        labels: The label columns; None takes all others that can be labels.
        split: The split column; None takes one called "split" that holds names of parts.

    Returns:
        The rows; one whose picture does not exist has its reason.

    Raises:
        DataError: If the file cannot be read as a table, or a column cannot be used.
        UnknownName: If a named column does not exist, or no picture column is found.
    """
    if path.suffix.lower() == ".parquet":
        grid = open_parquet(path)
        plain = grid.cells
    else:
        raw, lines = _read_csv(path)
        grid = Grid(
            str(path),
            tuple(raw),
            frozenset(raw),
            cells=lambda name: parse_cells(raw[name]),
            place=lambda row: f"line {lines[row]}",
        )
        plain = raw.__getitem__
    pictures = {name: image_column(grid, column) for name, column in inputs.pictures.items()}
    texts = {name: grid.require(column) for name, column in inputs.texts.items()}
    columns, parts = chosen_columns(
        grid, inputs={*pictures.values(), *texts.values()}, labels=labels, split=split, masks=inputs.masks
    )
    masks = {name: mask_samples(plain(name), _of(grid, path), path.parent) for name in inputs.masks}
    found: dict[str, Sequence[Sample | Skipped | None]] = {}
    for name, column in pictures.items():
        named = [(f"{grid.place(row)} of {path}", cell) for row, cell in enumerate(plain(column))]
        empty = (None, "") if inputs.several else ()
        found[name] = [None if cell in empty else _sample(cell, told, path.parent) for told, cell in named]
    found |= {name: text_samples(grid, column, plain(column)) for name, column in texts.items()}
    return Draft(str(path), found, columns, split=parts, masks=masks)


def _of(grid: Grid, path: Path) -> Callable[[int], str]:
    return lambda row: f"{grid.place(row)} of {path}"


def parse_cells(cells: Sequence[str]) -> list[object]:
    """Turn the texts of one CSV column into Python values, judged together.

    Empty cells and NaN are missing. All integers, numbers or true and false become that; if any cell has a ``|``, all
    are lists. Texts among integers stay texts, as class names like "404" and codes like "007" do; texts among decimal
    numbers are left mixed, which `infer_column` refuses.

    Args:
        cells: The cells, without outer blanks.

    Returns:
        A value a cell.

    Example:
        >>> parse_cells(["1", "", "2"]), parse_cells(["cat", "404"]), parse_cells(["a|b", "c"])
        ([1, None, 2], ['cat', '404'], [('a', 'b'), ('c',)])
    """
    if any("|" in cell for cell in cells):
        return [tuple(part.strip() for part in cell.split("|") if part.strip()) if cell else None for cell in cells]
    values = [_parse(cell) for cell in cells]
    decimals = any(isinstance(value, float) and math.isfinite(value) for value in values)
    if not decimals and any(isinstance(value, str) for value in values):
        return [None if value is None else cell for value, cell in zip(values, cells, strict=True)]
    return values


def _parse(cell: str) -> object:
    folded = cell.casefold()
    if folded in ("", "nan"):
        return None
    if folded in _BOOLEAN:
        return _BOOLEAN[folded]
    if _INTEGER.fullmatch(cell):
        return int(cell)
    if folded in _INFINITE or (_NUMBER.fullmatch(cell) and not _CODE.fullmatch(cell)):
        return float(cell)
    return cell


def _sample(cell: object, name: str, folder: Path) -> Sample | Skipped:
    try:
        sample = encoded_sample(cell, name, folder)
    except UnreadableSample as error:
        return Skipped(name, error.reason)
    if isinstance(sample, FileSample) and not sample.path.exists():
        return Skipped(sample.name, "no such file")
    return sample


def _read_csv(path: Path) -> tuple[dict[str, list[str]], list[int]]:
    """Read a CSV file's columns, and the line on which each row ends."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            delimiter = _delimiter(file)
            file.seek(0)
            return _columns(path, csv.reader(file, delimiter=delimiter, strict=True))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} must be UTF-8 text, got a byte that is not ({error.reason}). Save it as UTF-8."
        ) from error


def _columns(path: Path, reader: Reader) -> tuple[dict[str, list[str]], list[int]]:
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        for row in reader:
            if not row:
                continue
            if rows and len(row) != len(rows[0]):
                raise DataError(
                    f"{path}: every row must have {len(rows[0])} cells as the header has, got {len(row)} in line "
                    f"{reader.line_num}. Quote cells that contain the delimiter."
                )
            rows.append([cell.strip() for cell in row])
            lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"{path} must be a CSV table, got line {reader.line_num}: {error}.") from error
    if not rows:
        raise DataError(f"{path} must have a header line and one row or more, got an empty file.")
    header = rows[0]
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: column names must be different, got {twice!r} twice in line {lines[0]}.")
    return {name: [row[i] for row in rows[1:]] for i, name in enumerate(header)}, lines[1:]


def _delimiter(file: TextIO) -> str:
    """Choose the delimiter that cuts the first rows into the most cells of equal number."""

    def score(delimiter: str) -> tuple[bool, bool, int]:
        file.seek(0)
        widths = [len(row) for row in islice(csv.reader(file, delimiter=delimiter), 20) if row] or [0]
        return widths[0] > 1, len(set(widths)) == 1, widths[0]

    return max(",;\t", key=score)
