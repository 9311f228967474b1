"""The table that every data source becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from zoo.data.columns import Column
from zoo.data.samples import Sample
from zoo.data.splits import SPLITS, split_name
from zoo.errors import ConfigError, DataError, UnknownName, nearest

__all__ = ["Skipped", "Table", "name_list", "unknown_column"]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that was left out.

    Args:
        name: The path or row, as a person reads it.
        reason: One short phrase.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of samples and labels from one source; nothing is opened until it is needed.

    Args:
        source: Where the rows come from, as a person reads it.
        inputs: Input name to one sample a row, None where a row lacks it. A reader calls the only one "image".
        columns: Column name to one label a row.
        split: "train", "validation", "test" or None a row; None if the source gives no split.
        skipped: What the source had and this table leaves out; selections keep the list.

    Raises:
        DataError: If inputs, columns and split differ in length, there is no input, or a split is unknown.

    Example:
        >>> from pathlib import Path
        >>> from zoo.data import Column, FileSample, Table
        >>> pictures = (FileSample(Path("a.png")), FileSample(Path("b.png")))
        >>> table = Table("two files", {"image": pictures}, {"label": Column("label", "text", ("cat", None))})
        >>> len(table), table.select([0]).column("label").values
        (2, ('cat',))
    """

    source: str
    inputs: Mapping[str, tuple[Sample | None, ...]]
    columns: Mapping[str, Column]
    split: tuple[str | None, ...] | None = None
    skipped: tuple[Skipped, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", {name: tuple(samples) for name, samples in self.inputs.items()})
        object.__setattr__(self, "columns", dict(self.columns))
        sizes = {f"input {name!r}": len(samples) for name, samples in self.inputs.items()}
        if not sizes:
            raise DataError(f"{self.source}: a table must have one input or more, got none.")
        sizes |= {f"column {name!r}": len(column.values) for name, column in self.columns.items()}
        if self.split is not None:
            sizes["split"] = len(self.split)
            self._check_split(self.split)
        if len(set(sizes.values())) > 1:
            told = ", ".join(f"{what} {size}" for what, size in sizes.items())
            raise DataError(
                f"{self.source}: inputs, columns and split must have as many rows as one another, got {told}."
            )

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def select(self, rows: Sequence[int]) -> Table:
        """Take some rows, in the order given.

        Args:
            rows: Row numbers from 0; a row may be taken more than once.

        Returns:
            A new table of the same source and columns; kinds stay as they are.
        """
        columns = {
            name: Column(column.name, column.kind, tuple(column.values[row] for row in rows))
            for name, column in self.columns.items()
        }
        inputs = {name: tuple(samples[row] for row in rows) for name, samples in self.inputs.items()}
        split = None if self.split is None else tuple(self.split[row] for row in rows)
        return replace(self, inputs=inputs, columns=columns, split=split)

    def column(self, name: str) -> Column:
        """Give one column.

        Args:
            name: The column's name.

        Returns:
            The column.

        Raises:
            UnknownName: If there is no such column; the message has the nearest names.
        """
        if name not in self.columns:
            unknown_column(self.source, name, self.columns)
        return self.columns[name]

    def samples(self, name: str) -> tuple[Sample, ...]:
        """Give the samples of an input that every row has.

        Raises:
            UnknownName: If there is no such input.
            DataError: If a row lacks it.
        """
        if name not in self.inputs:
            raise UnknownName(f"{self.source} has no input {name!r}; its inputs: {', '.join(self.inputs)}.")
        found = tuple(sample for sample in self.inputs[name] if sample is not None)
        if len(found) < len(self):
            raise DataError(f"{self.source} has nothing for the input {name!r} in {len(self) - len(found)} rows.")
        return found

    def with_split(self, split: Sequence[str | None] | None) -> Table:
        """Say to which part each row belongs.

        Args:
            split: A name a row ("val", "valid" and "dev" mean "validation"), None for a row that is in no part, or
                None alone to forget the split.

        Returns:
            A new table.

        Raises:
            DataError: If a name means no part, or the number of names is not the number of rows.
        """
        named = None if split is None else tuple(part if part is None else split_name(part) or part for part in split)
        return replace(self, split=named)

    def keep(self, rows: Sequence[int], columns: Mapping[str, str]) -> dict[str, Any]:
        """Copy rows into a tree of tensors and JSON; see :func:`zoo.data.kept.keep_rows`."""
        from zoo.data.kept import keep_rows

        return keep_rows(self, rows, columns)

    def with_kept(self, kept: Mapping[str, Any], columns: Mapping[str, str]) -> Table:
        """Add rows that :meth:`keep` copied, of whichever table; see :func:`zoo.data.kept.with_kept`."""
        from zoo.data.kept import with_kept

        return with_kept(self, kept, columns)

    def _check_split(self, split: tuple[str | None, ...]) -> None:
        for row, part in enumerate(split):
            if part is not None and part not in SPLITS:
                raise DataError(
                    f"{self.source}: a split must be one of {', '.join(SPLITS)}, got {part!r} in row {row}."
                )


def unknown_column(source: str, name: str, known: Mapping[str, object] | Sequence[str]) -> NoReturn:
    """Say that a source has no such column, with the nearest names.

    Args:
        source: Where the column was looked for.
        name: What was asked for.
        known: The columns that exist.

    Raises:
        UnknownName: Always.
    """
    names = list(known)
    close = nearest(name, names)
    hint = f" Did you mean {', '.join(map(repr, close))}?" if close else ""
    shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    raise UnknownName(f"{source} has no column {name!r}; its columns: {shown or 'none'}.{hint}")


def name_list(argument: str, names: Sequence[str]) -> tuple[str, ...]:
    """Check a list of column names.

    Args:
        argument: What the caller calls it.
        names: The names; a bare text is refused, since it would be read letter by letter.

    Returns:
        The names without repetitions.

    Raises:
        ConfigError: If it is a text, or holds anything but texts.
    """
    if isinstance(names, str):
        raise ConfigError(f"{argument} must be a list of column names, got {names!r}. Write {argument}=[{names!r}].")
    if not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{argument} must be a list of column names, got {list(names)!r}.")
    return tuple(dict.fromkeys(names))
