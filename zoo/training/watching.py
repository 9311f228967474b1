"""What is watched while a run goes on: the files of the rows, and the loss of each batch."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from zoo.data import FileSample, Sample, Table
from zoo.errors import DataError
from zoo.training.rows.batches import Row

__all__ = ["Diverged", "WatchedRows", "check_finite", "names_of", "take_rows"]

_ROWS = "rows"


class Diverged(ArithmeticError):
    """A loss or gradient that is no finite number.

    Args:
        what: ``loss`` or ``gradient``.
        value: What it is.
        rows: The training rows of the batch, or of all batches of the step; None where nobody knows.
    """

    def __init__(self, what: str, value: float, rows: Sequence[int] | None) -> None:
        super().__init__(what, value, rows)
        self.what, self.value, self.rows = what, value, rows


class WatchedRows(Dataset[Row]):
    """Rows that know their numbers, whose files must stay as they were when the run began.

    Args:
        rows: The rows.
        table: The table that they are of, row for row.
        files: Whether the files are read while the run goes on.
    """

    def __init__(self, rows: Dataset[Row], table: Table, *, files: bool) -> None:
        self._rows: Any = rows
        held = [*table.inputs.values(), *(column.values for column in table.columns.values())] if files else []
        self._files = [
            tuple((each.path, _stamp(each)) for each in row if isinstance(each, FileSample))
            for row in zip(*held, strict=True)
        ]
        self._deaf = False
        if hasattr(rows, "__getitems__"):
            self.__getitems__ = self._batch  # what a loader asks for first

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Row:
        self._look([row])
        return {**self._rows[row], _ROWS: {"row": torch.tensor(row)}}

    def _batch(self, rows: Sequence[int]) -> Any:
        """Give several rows, or one batch of them, as those that are watched do."""
        self._look(rows)
        found = self._rows.__getitems__(rows)
        if isinstance(found, dict):
            return {**found, _ROWS: {"row": torch.tensor(list(rows))}}
        return [{**each, _ROWS: {"row": torch.tensor(row)}} for each, row in zip(found, rows, strict=True)]

    def _look(self, rows: Sequence[int]) -> None:
        """Refuse rows whose files are not what they were.

        Raises:
            DataError: If one changed, or is gone.
        """
        if not self._deaf and get_worker_info() is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that trains
            self._deaf = True
        for path, before in (each for row in rows for each in self._files[row]) if self._files else ():
            now = _stamp(FileSample(path))
            if now != before:
                what = "is gone" if now is None else "has changed"
                raise DataError(
                    f"{path} {what} since the run began; put it back as it was and go on from the last checkpoint, or "
                    "begin a new run with the data as it is."
                )


def _stamp(sample: FileSample) -> tuple[int, int] | None:
    """Give a file's size and time of change; None if it is not there."""
    try:
        found = os.stat(sample.path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def take_rows(batch: dict[str, Any]) -> list[int] | None:
    """Take the numbers of its rows out of a batch; None if it has none."""
    rows = batch.pop(_ROWS, None)
    return None if rows is None else rows["row"].tolist()


def check_finite(batches: Sequence[tuple[Sequence[int] | None, Tensor]], norm: Tensor | float | None) -> None:
    """Stop where the loss of a batch, or the gradient of all of them, is no finite number.

    Args:
        batches: The rows of each batch of an optimizer step, and its loss.
        norm: The norm of the gradient; None where nobody knows it.

    Raises:
        Diverged: If one is not.
    """
    losses = [loss.float() for _, loss in batches]
    if isinstance(norm, Tensor):
        losses.append(norm.to(losses[0]) if losses else norm)
    values = torch.stack(losses).tolist() if losses else []
    for (rows, _), value in zip(batches, values, strict=False):
        if not math.isfinite(value):
            raise Diverged("loss", value, rows)
    last = values[-1] if isinstance(norm, Tensor) else norm
    if last is not None and not math.isfinite(last):
        known = [rows for rows, _ in batches if rows is not None]
        raise Diverged("gradient", last, [row for rows in known for row in rows] if known else None)


def names_of(table: Table, rows: Sequence[int]) -> list[str]:
    """Name the samples of some rows: of each row the first that there is."""
    found = []
    for row in rows:
        given: list[Sample] = [one for samples in table.inputs.values() if (one := samples[row]) is not None]
        found.append(given[0].name if given else f"row {row}")
    return found
