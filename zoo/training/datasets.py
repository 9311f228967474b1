"""The data sets of a run: pictures, training views of them, or features that were computed once."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch.utils.data import Dataset

from zoo.contracts.method import Plan
from zoo.data import Table
from zoo.model import Model
from zoo.training.batches import FeatureRows, Row, SampleRows, ViewRows, rows_of
from zoo.training.features import FeatureStore, storable
from zoo.training.groups import HEADS
from zoo.training.history import History
from zoo.training.masks import Targets
from zoo.training.settings import Settings

__all__ = ["make_datasets"]

log = logging.getLogger("zoo")


def make_datasets(
    model: Model,
    plan: Plan,
    parts: Mapping[str, Table],
    targets: Mapping[str, Mapping[str, Targets]],
    history: History,
    place: torch.device,
    run: Settings,
) -> dict[str, Dataset[Row]]:
    """Make the data sets: features that are computed once where no backbone ever trains, else pictures."""
    rests = plan.stages() - plan.never_trained() == {HEADS}
    if run.augmentation is not None or not rests or not storable(model):
        made: dict[str, Dataset[Row]] = {part: SampleRows(model, rows, targets[part]) for part, rows in parts.items()}
        if run.augmentation is not None:
            if rests:
                log.info("With an augmentation no features are kept: the backbone runs on new views in each epoch.")
            made["train"] = ViewRows(model, parts["train"], targets["train"], run.augmentation, run.seed)
        return made
    history.cached_features = True
    store = FeatureStore(model)
    samples = {part: rows_of(model, rows) for part, rows in parts.items()}
    every = store.get([row for part in samples.values() for row in part], device=place)
    datasets: dict[str, Dataset[Row]] = {}
    start = 0
    for part, rows in samples.items():
        datasets[part] = FeatureRows(every.select(range(start, start + len(rows))), targets[part])
        start += len(rows)
    return datasets
