"""Gradients of the training loss, by which importance is told from data."""

from __future__ import annotations

from typing import Any

import torch

from zoo.errors import ConfigError, DataError
from zoo.model import Model
from zoo.training.rows.batches import Collator, SampleRows
from zoo.training.rows.tables import read_for
from zoo.training.rows.targets import columns_of, row_targets

__all__ = ["add_gradients"]

BATCH = 16
MOST_ROWS = 256
"""Rows of the training part that are looked at; the first."""


def add_gradients(model: Model, data: Any) -> None:
    """Leave in each parameter the gradient of the heads' losses over rows of data, in eval mode.

    Args:
        model: The model, on the CPU.
        data: What ``zoo.fit`` would be trained on, with labels; the first 256 rows of its training part are used.

    Raises:
        DataError: If the data cannot be used.
        ConfigError: If the model has no head.
    """
    if not model.tasks():
        raise ConfigError("importance='taylor' goes by the heads' losses, and the model has no head.")
    table = read_for(model, data, strict=False)
    columns = columns_of(model, table)
    kept = [row for row in range(len(table)) if table.split is None or table.split[row] in (None, "train")][:MOST_ROWS]
    if not kept:
        raise DataError(f"{table.source} has no training rows, and importance='taylor' is told from them.")
    chosen = table.select(kept)
    rows = SampleRows(model, chosen, row_targets(model, chosen, columns))
    collator = Collator(model.preparers())
    model.zero_grad(set_to_none=True)
    with torch.enable_grad():
        for first in range(0, len(rows), BATCH):
            batch = collator([rows[row] for row in range(first, min(first + BATCH, len(rows)))])
            losses = model.losses(model(batch["inputs"]), batch["targets"])
            torch.stack(list(losses.values())).sum().backward()
