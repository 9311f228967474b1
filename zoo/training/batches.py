"""Rows as torch data sets: pictures, or features that were computed before."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.augmentation import Augmentation
from zoo.data import Table
from zoo.errors import DataError, ShapeError
from zoo.model import Model
from zoo.training.features import StoredFeatures

__all__ = ["FeatureRows", "PictureRows", "ViewRows", "collate"]

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


class ViewRows(Dataset[Row]):
    """Pictures as training views, with their targets.

    A view is decided by the seed, the epoch and the row alone, so a run is the same with any number of workers.

    Args:
        model: The model in whose preprocessing the views end.
        table: The pictures.
        targets: Task name to targets, one a row.
        augmentation: How pictures are varied.
        seed: The run's seed.
    """

    def __init__(
        self, model: Model, table: Table, targets: Mapping[str, Tensor], augmentation: Augmentation, seed: int
    ) -> None:
        self._views = augmentation.views(model.preprocessor().recipe)
        self._input = model.input_names[0]
        self._samples = next(iter(table.inputs.values()))
        self._targets = dict(targets)
        self._seed = seed
        self.epoch = 0
        """The epoch whose views are given, from 0; the engine sets it when an epoch begins."""

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, row: int) -> Row:
        sample = self._samples[row]
        opened: Any = sample.open()
        try:
            view = self._views(opened, view_seed(self._seed, self.epoch, row))
        except DataError as error:
            raise DataError(f"{sample.name}: {error}") from error
        return {"inputs": {self._input: view}, "targets": {name: t[row] for name, t in self._targets.items()}}


def view_seed(seed: int, epoch: int, row: int) -> int:
    """Mix a run's seed, an epoch and a row into the seed of one view, 0 to 2**63 - 1."""
    mixed = hashlib.blake2b(f"{seed} {epoch} {row}".encode(), digest_size=8).digest()
    return int.from_bytes(mixed, "big") >> 1


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

    Raises:
        ShapeError: If the pictures differ in size.
    """
    for name in rows[0].get("inputs", ()):
        sizes = {tuple(row["inputs"][name].shape) for row in rows}
        if len(sizes) > 1:
            raise ShapeError(
                f"The pictures of one batch must have one size, got {sorted(sizes)}; "
                "name a size in the reference ('?img_size=224'), or give pictures of one shape."
            )
    return {
        group: {name: torch.stack([row[group][name] for row in rows]) for name in rows[0][group]} for group in rows[0]
    }
