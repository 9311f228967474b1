"""Reading data for a model: its inputs say which columns hold pictures and which texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo.data import Table, read
from zoo.training.rows.predictor import Predictor

__all__ = ["input_columns", "read_for"]


def read_for(model: Predictor, data: Any, *, strict: bool, image: str | None = None, split: str | None = None) -> Table:
    """Read a source as the model needs it.

    A model with one picture as its input finds the column itself; with several inputs, or a text, each is the column of
    its own name. The label columns of heads that learn masks are read as masks. A table passes as it is. The
    arguments are those of ``zoo.read``.

    Raises:
        DataError: If the source cannot be used.
        UnknownName: If a column is not there.
    """
    if isinstance(data, Table):
        return read(data, strict=strict, image=image, split=split)
    masks = [task.target for task in model.tasks().values() if task.masks is not None]
    inputs = input_columns(model.modalities)
    return read(data, strict=strict, image=image, split=split, masks=masks, **inputs)


def input_columns(modalities: Mapping[str, str]) -> dict[str, Any]:
    """Give the arguments of ``zoo.read`` for a model's inputs: each is the column of its name.

    Args:
        modalities: Input name to what its samples are; a picture alone is left to the reader.
    """
    if len(modalities) == 1 and "text" not in modalities.values():
        return {}
    texts = {name: name for name, modality in modalities.items() if modality == "text"}
    return {"inputs": {name: name for name in modalities if name not in texts}, "texts": texts}
