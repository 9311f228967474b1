"""Some of the training rows, to look at outside of training: evenly spread, since data often lie sorted by class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zoo.errors import DataError
from zoo.model import Model
from zoo.training.rows.batches import Collator, SampleRows
from zoo.training.rows.tables import read_for
from zoo.training.rows.targets import columns_of, row_targets

__all__ = ["look_at", "spread"]


def spread(total: int, most: int, size: int) -> list[list[int]]:
    """Choose rows, evenly spread over all, in batches each of which is evenly spread, too.

    Args:
        total: How many rows there are.
        most: How many to choose, if there are so many.
        size: How many rows a batch has at the most; batches differ by one row.

    Returns:
        The row numbers of each batch.
    """
    count = min(total, most)
    chosen = [place * total // count for place in range(count)]
    batches = -(-count // size)
    return [chosen[first::batches] for first in range(batches)]


def look_at(model: Model, data: Any, *, most: int, size: int, labelled: bool = False) -> Iterator[dict[str, Any]]:
    """Give training rows as a model takes them in eval mode, evenly spread, batch by batch.

    Args:
        model: The model.
        data: What ``zoo.fit`` would be trained on; rows of other parts are left out.
        most: How many rows to give, if there are so many.
        size: How many rows a batch has at the most.
        labelled: Whether to give the targets of the model's tasks, too.

    Yields:
        Batches, with ``inputs`` and ``targets``.

    Raises:
        DataError: If the data cannot be used, or have no training row.
    """
    table = read_for(model, data, strict=False)
    columns = columns_of(model, table) if labelled else {}
    kept = [row for row in range(len(table)) if table.split is None or table.split[row] in (None, "train")]
    if not kept:
        raise DataError(f"{table.source} has no training rows.")
    batches = spread(len(kept), most, size)
    chosen = table.select([kept[row] for batch in batches for row in batch])
    rows = SampleRows(model, chosen, row_targets(model, chosen, columns) if labelled else {})
    collator, first = Collator(model.preparers()), 0
    for batch in batches:
        yield collator([rows[row] for row in range(first, first + len(batch))])
        first += len(batch)
