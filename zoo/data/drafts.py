"""Drafts: what a reader found, and the one way from there to a table without unreadable rows."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from zoo.data.columns import Column
from zoo.data.pictures import UnreadableSample
from zoo.data.samples import Sample
from zoo.data.table import Skipped, Table
from zoo.errors import DataError

__all__ = ["Draft", "settle"]

_BATCH = 64  # samples a task; a task each would cost more memory than the pictures


@dataclass(frozen=True, slots=True)
class Draft:
    """What a reader found in a source, readable or not.

    Args:
        source: What a person reads.
        samples: One picture a row, or why there is none.
        columns: One label a row, for every row of ``samples``.
        split: The part of each row, if the source gives one.
        stray: What the source holds besides its rows.
        opened: Whether the reader has opened every sample already.
        classes: Values of the column "label" that must keep a row, each with the folder that it names.
    """

    source: str
    samples: Sequence[Sample | Skipped]
    columns: Mapping[str, Column]
    split: tuple[str | None, ...] | None = None
    stray: tuple[Skipped, ...] = ()
    opened: bool = False
    classes: Mapping[str, str] | None = None


def settle(draft: Draft, *, strict: bool, check: bool) -> Table:
    """Drop the rows that cannot be read, or refuse them.

    Args:
        draft: What a reader found.
        strict: Whether one unreadable row is an error.
        check: Whether to decode every picture once; otherwise only rows without any picture are dropped.

    Returns:
        The table of the readable rows, with the others listed.

    Raises:
        DataError: If a row is unreadable and ``strict``, nothing readable is left, or a class folder has lost all.
    """
    if not draft.samples:
        raise DataError(f"{draft.source} must have one row or more, got none.")
    samples = _checked(draft.samples) if check and not draft.opened else draft.samples
    rows = [row for row, sample in enumerate(samples) if isinstance(sample, Sample)]
    kept = tuple(sample for sample in samples if isinstance(sample, Sample))
    lost = tuple(sample for sample in samples if isinstance(sample, Skipped))
    skipped = (*lost, *draft.stray)
    if strict and skipped:
        raise DataError(
            f"{draft.source}: {len(skipped)} of {len(samples) + len(draft.stray)} pictures cannot be used: "
            f"{_first(skipped)}. Repair or remove them, or leave strict out to skip them."
        )
    if not rows:
        raise DataError(f"{draft.source} must have one readable picture or more, got none: {_first(skipped)}.")
    columns = {
        name: Column(name, column.kind, tuple(column.values[row] for row in rows))
        for name, column in draft.columns.items()
    }
    split = None if draft.split is None else tuple(draft.split[row] for row in rows)
    table = Table(draft.source, {"image": kept}, columns, split, skipped)
    _check_classes(draft, table)
    return table


def _checked(samples: Sequence[Sample | Skipped]) -> list[Sample | Skipped]:
    """Open every sample once; decoding leaves the interpreter's lock, so threads share the work."""
    batches = [samples[start : start + _BATCH] for start in range(0, len(samples), _BATCH)]
    with warnings.catch_warnings(), ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")  # whether a picture can be read is the answer, and it is listed
        return [sample for batch in pool.map(_check_batch, batches) for sample in batch]


def _check_batch(samples: Sequence[Sample | Skipped]) -> list[Sample | Skipped]:
    return [sample if isinstance(sample, Skipped) else _check(sample) for sample in samples]


def _check(sample: Sample) -> Sample | Skipped:
    try:
        sample.open()
    except UnreadableSample as error:
        return Skipped(sample.name, error.reason)
    return sample


def _check_classes(draft: Draft, table: Table) -> None:
    counts = Counter(table.columns["label"].values) if draft.classes else Counter()
    for name, folder in (draft.classes or {}).items():
        if not counts[name]:
            lost = [skipped for skipped in table.skipped if skipped.name.startswith(folder + os.sep)]
            raise DataError(
                f"Class folder {folder!r} must have one readable picture or more, got none: {_first(lost)}. "
                "Repair the pictures or remove the folder."
            )


def _first(skipped: Sequence[Skipped]) -> str:
    told = "; ".join(map(str, skipped[:5]))
    return told if len(skipped) <= 5 else f"{told}; and {len(skipped) - 5} more"
