"""Model soups: the mean of several models' weights, all of them or those that help on validation data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from zoo.bundle.loading import load_model
from zoo.data import Table
from zoo.ensembling.averaging import averaged, check_alike
from zoo.errors import ConfigError, UnknownName, nearest
from zoo.model import Model
from zoo.training.ensembles import validation_rows
from zoo.training.judging.evaluation import measure, pick_device
from zoo.training.rows.batches import Collator, SampleRows
from zoo.training.rows.tables import read_for
from zoo.training.rows.targets import columns_of, encode

__all__ = ["soup"]

_WAYS = ("uniform", "greedy")


def soup(
    models: Sequence[Model | str | Path],
    how: str = "uniform",
    *,
    data: Table | str | Path | Any | None = None,
    split: str | None = None,
    batch_size: int = 32,
    device: str = "auto",
    strict: bool = False,
) -> Model:
    """Make one model whose weights are the mean of several models' weights; it costs what one of them costs.

    The models must be of one architecture with the same heads, and should be trainings of one pretrained model: the
    mean of weights that are far apart is of no use. Running statistics of batch norm are averaged as they are.

    Args:
        models: Models, or folders of bundles.
        how: ``uniform`` for the mean of all; ``greedy`` to add them one by one, the best first, and keep each that does
            not make the soup worse on validation data.
        data: For ``greedy``: as for ``zoo.fit``; rows that the models were not trained on.
        split: For ``greedy``: the part of the data to use; by default its validation rows, or all where the data has no
            parts.
        batch_size: For ``greedy``: samples in one pass, 1 or more.
        device: For ``greedy``: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        strict: For ``greedy``: whether an unreadable picture is an error.

    Returns:
        A new model, in eval mode; ``provenance["soup"]`` says which models are in it.

    Raises:
        ConfigError: If there is no model, they differ, or ``data`` is missing or of no use.
        UnknownName: If there is no such way.
        DataError: If the data cannot be used.
        BundleError: If a bundle cannot be loaded.

    Source:
        Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
        increasing inference time", 2022, arXiv:2203.05482. Ours ranks by the deciding metric of the only task; of
        several tasks by their loss.
    """
    if how not in _WAYS:
        near = nearest(how, _WAYS) if isinstance(how, str) else []
        raise UnknownName(f"There is no soup how={how!r}; it is one of {', '.join(near or _WAYS)}.")
    if (data is None) != (how == "uniform"):
        raise ConfigError(
            "how='greedy' needs validation data: data=…."
            if data is None
            else "how='uniform' takes all models as they are; leave data out, or set how='greedy'."
        )
    if batch_size < 1:
        raise ConfigError(f"batch_size must be 1 or more, got {batch_size}.")
    if isinstance(models, (str, os.PathLike, Model)) or not isinstance(models, Sequence):
        raise ConfigError(f"models must be a list of models, got {type(models).__name__}.")
    loaded = [_loaded(n, model) for n, model in enumerate(models, start=1)]
    check_alike({f"model {n}": model for n, model in enumerate(loaded, start=1)})
    kept = list(range(len(loaded)))
    if how == "greedy":
        kept = _greedy(loaded, data, split, batch_size, device, strict=strict)
    made = averaged([loaded[n] for n in kept])
    made.provenance = {"soup": {"how": how, "of": len(loaded), "models": [n + 1 for n in kept]}}
    return made


def _loaded(number: int, given: Any) -> Model:
    """Give a model of the soup.

    Raises:
        ConfigError: If it is none.
    """
    model = load_model(given) if isinstance(given, (str, Path)) else given
    if not isinstance(model, Model):
        raise ConfigError(
            f"Model {number} of the soup must be a model or a bundle's folder, got {type(model).__name__}."
        )
    return model


def _greedy(
    models: Sequence[Model], data: Any, split: str | None, batch_size: int, device: str, *, strict: bool
) -> list[int]:
    """Choose the models of a soup, the best first."""
    first = models[0]
    table = validation_rows(read_for(first, data, strict=strict), split)
    targets = encode(first, table, columns_of(first, table))
    rows, place = SampleRows(first, table, targets), pick_device(device)

    def score(model: Model) -> float:
        before = next(model.parameters()).device
        loader = DataLoader(rows, batch_size=batch_size, collate_fn=Collator(first.preparers()))
        loss, metrics = measure(model.to(place), loader, lambda batch: model(batch["inputs"]), place)
        model.to(before)
        (name, task), *others = model.tasks().items()
        metric, higher = task.best_metric
        if others or name not in metrics:
            return -loss
        return metrics[name][metric] if higher else -metrics[name][metric]

    scores = [score(model) for model in models]
    order = sorted(range(len(models)), key=lambda n: scores[n], reverse=True)
    kept, best = order[:1], scores[order[0]]
    for n in order[1:]:
        tried = score(averaged([models[k] for k in [*kept, n]]))
        if tried >= best:
            kept, best = [*kept, n], tried
    return kept
