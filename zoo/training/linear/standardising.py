"""Standardised features for heads that learn by stochastic steps on kept features."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.model import Model
from zoo.training.features.flat import from_flat
from zoo.training.linear.layers import first_layers, scale_of, standardised
from zoo.training.rows.batches import FeatureRows, Row

__all__ = ["all_features", "on_standardised"]

FEW = 2
"""Rows with which the first layers of the heads are found."""


@contextmanager
def on_standardised(model: Model, rows: Dataset[Row], place: torch.device) -> Iterator[None]:
    """Let linear first layers learn on standardised features meanwhile, where whole features are kept.

    Args:
        model: The model.
        rows: The training rows.
        place: Where the heads learn.
    """
    if not isinstance(rows, FeatureRows) or rows.prefixes:
        yield
        return
    model.to(place)
    few = {key: value.to(place) for key, value in rows.features(range(min(FEW, len(rows)))).items()}
    layers = first_layers(model, from_flat(few))
    scales = {}
    for stream in {one.stream for one in layers}:
        key = f"{stream}/pooled"
        scales[stream] = scale_of(torch.cat([part[key] for part in rows.parts(key)]))
    with standardised(layers, scales), _passed_over():
        yield


@contextmanager
def _passed_over() -> Iterator[None]:
    """Let the garbage collector pass over what is there already: it takes longer than a run of heads does."""
    if gc.get_freeze_count():
        yield  # someone else's
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def all_features(rows: FeatureRows, place: torch.device) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Give the features and the targets of all rows at once, those of all cached views one after the other.

    Args:
        rows: The rows.
        place: Where they are put.

    Shape:
        - returns: flat key, and task name, to ``(views · N, …)``.
    """
    parts = []
    for view in range(rows.views):
        rows.epoch = view
        parts.append(rows.batch(range(len(rows))))
    rows.epoch = 0
    joined = [
        {key: torch.cat([part[group][key] for part in parts]).to(place) for key in parts[0][group]}
        for group in ("features", "targets")
    ]
    return joined[0], joined[1]
