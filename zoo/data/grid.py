"""Grids: sources that have named columns, before anyone has chosen which of them are labels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.data.columns import Column, infer_column
from zoo.data.pictures import unreadable
from zoo.data.samples import BytesSample, FileSample, Sample, TextSample
from zoo.data.splits import SPLITS, split_name
from zoo.data.table import unknown_column
from zoo.errors import ConfigError, DataError, UnknownName

__all__ = ["Grid", "chosen_columns", "encoded_sample", "image_column", "text_samples"]

_IMAGE_NAMES = ("image", "path", "file", "filename", "filepath", "img", "picture")


@dataclass(frozen=True, slots=True)
class Grid:
    """Named columns of a source, read one at a time.

    Args:
        source: What a person reads.
        names: Every column, in the source's order.
        usable: The columns whose type can be a label; only these are taken when none are named.
        cells: Gives one column's cells, a Python value a row.
        place: Names a row for a person, given its number from 0.
    """

    source: str
    names: tuple[str, ...]
    usable: frozenset[str]
    cells: Callable[[str], Sequence[object]]
    place: Callable[[int], str]

    def require(self, name: str) -> str:
        """Give a column's name back if it exists.

        Args:
            name: The column asked for.

        Returns:
            The same name.

        Raises:
            UnknownName: If there is no such column; the message has the nearest names.
        """
        if name not in self.names:
            unknown_column(self.source, name, self.names)
        return name


def image_column(grid: Grid, image: str | None) -> str:
    """Find the column that holds the pictures.

    Args:
        grid: The source.
        image: The column's name; None takes the first that is called image, path, file, filename, filepath, img or
            picture, in any case.

    Returns:
        The column's name.

    Raises:
        UnknownName: If the named column does not exist, or none is named and none has such a name.
    """
    if image is not None:
        return grid.require(image)
    for wanted in _IMAGE_NAMES:
        for name in grid.names:
            if name.casefold() == wanted:
                return name
    raise UnknownName(
        f"{grid.source} must have a picture column, called {', '.join(_IMAGE_NAMES[:-1])} or {_IMAGE_NAMES[-1]}; "
        f"its columns: {', '.join(grid.names) or 'none'}. Name it with image='…'."
    )


def encoded_sample(cell: object, name: str, folder: Path) -> Sample:
    """Make a sample of what a table's picture column holds.

    Args:
        cell: A path, encoded bytes, or a mapping with ``bytes`` and ``path`` as Hugging Face stores pictures.
        name: What to call a picture that has no path.
        folder: What relative paths are relative to.

    Returns:
        The sample, not opened.

    Raises:
        UnreadableSample: If the cell is empty or holds something else.
    """
    if isinstance(cell, Mapping) and set(cell) <= {"bytes", "path"}:
        cell = cell.get("path") if cell.get("bytes") is None else cell.get("bytes")
    if cell is None or cell == "":
        raise unreadable(name, "no picture given")
    if isinstance(cell, bytes):
        return BytesSample(name, cell)
    if isinstance(cell, str):
        return FileSample(folder / Path(cell).expanduser())
    raise unreadable(name, f"a picture cell must hold a path or encoded bytes, got {type(cell).__name__}")


def text_samples(grid: Grid, column: str, cells: Sequence[object] | None = None) -> list[Sample | None]:
    """Make samples of a column of texts.

    Args:
        grid: The source.
        column: The column's name.
        cells: Its cells as they are to be read; None for the grid's own.

    Returns:
        A sample a row; None for an empty cell.

    Raises:
        DataError: If a cell holds something else.
    """
    found: list[Sample | None] = []
    for row, cell in enumerate(grid.cells(column) if cells is None else cells):
        if cell is not None and not isinstance(cell, str):
            raise DataError(f"{grid.source}: column {column!r} must hold texts, got {cell!r} in {grid.place(row)}.")
        found.append(TextSample(f"{grid.place(row)} of {grid.source}", cell) if cell else None)
    return found


def chosen_columns(
    grid: Grid,
    *,
    inputs: Collection[str],
    labels: Sequence[str] | None,
    split: str | None,
    masks: Collection[str] = (),
) -> tuple[Mapping[str, Column], tuple[str | None, ...] | None]:
    """Read the label columns and the split column of a source.

    Args:
        grid: The source.
        inputs: The columns of its inputs, which can be neither.
        labels: The label columns; None takes all that can be labels.
        split: The split column; None takes one called "split" if all its values name parts.
        masks: The label columns whose cells are masks, which are not read here.

    Returns:
        The columns by name, and the part of each row, if there is a split column.

    Raises:
        UnknownName: If a named column does not exist.
        DataError: If a column cannot be used.
        ConfigError: If one column is asked to be two things.
    """
    parts = _split(grid, inputs={*inputs, *masks}, labels=labels, split=split)
    taken = {*inputs, *([parts[0]] if parts else [])}
    for name in masks:
        if grid.require(name) in taken:
            raise ConfigError(f"{grid.source}: {name!r} is an input column and cannot hold masks as well.")
    if labels is None:
        names = [name for name in grid.names if name in grid.usable and name not in {*taken, *masks}]
    else:
        names = [grid.require(name) for name in labels if name not in masks]
        for name in names:
            if name in taken:
                what = "an input" if name in inputs else "the split"
                raise ConfigError(f"{grid.source}: {name!r} is {what} column and cannot be a label column as well.")
    columns = {name: infer_column(name, grid.cells(name), grid.place) for name in names}
    return columns, parts[1] if parts else None


def _split(
    grid: Grid, *, inputs: Collection[str], labels: Sequence[str] | None, split: str | None
) -> tuple[str, tuple[str | None, ...]] | None:
    """Give the split column's name and its parts, if there is one."""
    if split is None and ("split" not in grid.usable or "split" in inputs or "split" in (labels or ())):
        return None
    name = "split" if split is None else grid.require(split)
    if name in inputs:
        raise ConfigError(f"{grid.source}: {name!r} is an input column and cannot be the split column as well.")
    cells = grid.cells(name)
    parts = tuple(split_name(cell) for cell in cells)
    missing = [cell is None or (isinstance(cell, str) and not cell) for cell in cells]
    strange = next((row for row, part in enumerate(parts) if part is None and not missing[row]), None)
    if strange is None and any(parts):
        return name, parts
    if split is None:
        return None
    got = "empty cells only" if strange is None else f"{cells[strange]!r} in {grid.place(strange)}"
    raise DataError(f"{grid.source}: the split column {name!r} must hold {', '.join(SPLITS)}, got {got}.")
