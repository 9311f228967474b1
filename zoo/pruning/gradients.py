"""Gradients of the training loss, by which importance is told from data."""

from __future__ import annotations

from typing import Any

import torch

from zoo.errors import ConfigError
from zoo.model import Model
from zoo.training.rows.looking import look_at

__all__ = ["BATCH", "MOST_ROWS", "add_gradients"]

BATCH = 16
MOST_ROWS = 256
"""How many training rows are looked at, evenly spread."""


def add_gradients(model: Model, data: Any) -> None:
    """Leave in each parameter the gradient of the heads' losses over rows of data, in eval mode.

    Args:
        model: The model, on the CPU.
        data: What ``zoo.fit`` would be trained on, with labels; 256 rows of its training part are used.

    Raises:
        DataError: If the data cannot be used.
        ConfigError: If the model has no head.
    """
    if not model.tasks():
        raise ConfigError("importance='taylor' goes by the heads' losses, and the model has no head.")
    model.zero_grad(set_to_none=True)
    with torch.enable_grad():
        for batch in look_at(model, data, most=MOST_ROWS, size=BATCH, labelled=True):
            losses = model.losses(model(batch["inputs"]), batch["targets"])
            torch.stack(list(losses.values())).sum().backward()
