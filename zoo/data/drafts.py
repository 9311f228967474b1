"""Drafts: what a reader found, and the one way from there to a table without unreadable rows."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from operator import methodcaller

from zoo.data.columns import Column
from zoo.data.masks import open_mask
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
        inputs: Input name to one sample a row, why it cannot be used, or None where a row of several inputs lacks it.
        columns: One label a row.
        split: The part of each row, if the source gives one.
        stray: What the source holds besides its rows.
        opened: Whether the reader has opened every sample already.
        classes: Values of the column "label" that must keep a row, each with the folder that it names.
        masks: Label column to one mask a row, why it cannot be used, or None where a row has none.
    """

    source: str
    inputs: Mapping[str, Sequence[Sample | Skipped | None]]
    columns: Mapping[str, Column]
    split: tuple[str | None, ...] | None = None
    stray: tuple[Skipped, ...] = ()
    opened: bool = False
    classes: Mapping[str, str] | None = None
    masks: Mapping[str, Sequence[Sample | Skipped | None]] = field(default_factory=dict)


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
    count = len(next(iter(draft.inputs.values())))
    if not count:
        raise DataError(f"{draft.source} must have one row or more, got none.")
    opened = draft.opened or not check
    inputs = {name: samples if opened else _checked(samples) for name, samples in draft.inputs.items()}
    masks = {name: _checked(samples, open_mask) if check else samples for name, samples in draft.masks.items()}
    whole = list(zip(*inputs.values(), *masks.values(), strict=True))
    lost = tuple(found[0] for row in whole if (found := [one for one in row if isinstance(one, Skipped)]))
    rows = [number for number, row in enumerate(whole) if not any(isinstance(one, Skipped) for one in row)]
    kept = {name: tuple(_kept(samples[row]) for row in rows) for name, samples in inputs.items()}
    skipped = (*lost, *draft.stray)
    if strict and skipped:
        raise DataError(
            f"{draft.source}: {len(skipped)} of {count + len(draft.stray)} pictures cannot be used: "
            f"{_first(skipped)}. Repair or remove them, or leave strict out to skip them."
        )
    if not rows:
        raise DataError(f"{draft.source} must have one readable picture or more, got none: {_first(skipped)}.")
    columns = {
        name: Column(name, column.kind, tuple(column.values[row] for row in rows))
        for name, column in draft.columns.items()
    }
    columns |= {name: Column(name, "mask", tuple(_kept(held[row]) for row in rows)) for name, held in masks.items()}
    split = None if draft.split is None else tuple(draft.split[row] for row in rows)
    table = Table(draft.source, kept, columns, split, skipped)
    _check_classes(draft, table)
    return table


def _kept(sample: Sample | Skipped | None) -> Sample | None:
    return sample if isinstance(sample, Sample) else None


def _checked(
    samples: Sequence[Sample | Skipped | None], open_: Callable[[Sample], object] = methodcaller("open")
) -> list[Sample | Skipped | None]:
    """Open every sample once; decoding leaves the interpreter's lock, so threads share the work."""
    batches = [samples[start : start + _BATCH] for start in range(0, len(samples), _BATCH)]
    with warnings.catch_warnings(), ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")  # whether a picture can be read is the answer, and it is listed
        return [sample for batch in pool.map(partial(_check_batch, open_), batches) for sample in batch]


def _check_batch(
    open_: Callable[[Sample], object], samples: Sequence[Sample | Skipped | None]
) -> list[Sample | Skipped | None]:
    return [_check(open_, sample) if isinstance(sample, Sample) else sample for sample in samples]


def _check(open_: Callable[[Sample], object], sample: Sample) -> Sample | Skipped:
    try:
        open_(sample)
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
