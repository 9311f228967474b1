"""Rows as torch data sets: pictures, or features that were computed before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data import Table
from zoo.model import Model
from zoo.training.features import StoredFeatures

__all__ = ["FeatureRows", "PictureRows", "collate"]

Row = dict[str, dict[str, Tensor]]


class PictureRows(Dataset[Row]):
    """Pictures, opened and preprocessed when they are asked for, with their targets.

    Args:
        model: The model whose preprocessing is used.
        table: The pictures.
        targets: Task name to targets, one a row.
    """

    def __init__(self, model: Model, table: Table, targets: Mapping[str, Tensor]) -> None:
        self._preprocess = model.preprocessor()
        self._input = model.input_names[0]
        self._samples = next(iter(table.inputs.values()))
        self._targets = dict(targets)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, row: int) -> Row:
        picture = self._preprocess(self._samples[row])
        return {"inputs": {self._input: picture}, "targets": {name: t[row] for name, t in self._targets.items()}}


class FeatureRows(Dataset[Row]):
    """Features that were computed before, with their targets.

    Args:
        features: One set of features a row.
        targets: Task name to targets, one a row.
    """

    def __init__(self, features: StoredFeatures, targets: Mapping[str, Tensor]) -> None:
        self._features = features
        self._targets = dict(targets)

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, row: int) -> Row:
        return {"features": self._features[row], "targets": {name: t[row] for name, t in self._targets.items()}}


def collate(rows: Sequence[Row]) -> dict[str, Any]:
    """Stack rows into a batch.

    Shape:
        - returns: ``inputs`` or ``features``, and ``targets``: name to ``(B, …)``.
    """
    return {
        group: {name: torch.stack([row[group][name] for row in rows]) for name in rows[0][group]} for group in rows[0]
    }
