"""``zoo.fit``: data and a method in, a trained model and its history out."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from zoo.augmentation import Augmentation
from zoo.contracts.method import Method, Plan
from zoo.data import Table, check_labels, split_table
from zoo.errors import ConfigError, UnknownName
from zoo.model import Model
from zoo.registry import registry
from zoo.spec import check_options
from zoo.training.batches import Collator, Row
from zoo.training.datasets import make_datasets
from zoo.training.engine import Objective
from zoo.training.evaluation import measure, pick_device
from zoo.training.history import History, Metrics
from zoo.training.learning import learn_features, rest
from zoo.training.running import train
from zoo.training.selection import TASKS, baselines, check_tasks
from zoo.training.settings import Settings
from zoo.training.tables import read_for
from zoo.training.targets import columns_of, labels_of, row_targets

__all__ = ["fit"]

log = logging.getLogger("zoo")


def fit(
    model: Model,
    data: Table | str | Path | Any,
    *,
    method: str = "fine_tuning",
    epochs: int = 10,
    batch_size: int = 32,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    warmup: float = 0.05,
    seed: int = 0,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    validation: float = 0.2,
    patience: int | None = None,
    select: str | None = None,
    strict: bool = False,
    workers: int | None = None,
    augmentation: Augmentation | str | None = None,
    progress: bool = False,
    **settings: Any,
) -> History:
    """Train a model's heads, and of its backbones what the method says.

    Args:
        model: The model; it is trained in place and ends in eval mode with the weights of the best epoch.
        data: A folder of class folders, a CSV or Parquet table with an image column, a Hugging Face or torch data set,
            or a ``zoo.Table``. Labels may be missing in any row.
        method: Name of a training method, such as ``feature_extraction`` or ``fine_tuning``.
        epochs: Passes over the training rows, 1 or more.
        batch_size: Rows in a step; a last batch of a single row is left out of its epoch, for BatchNorm's sake.
        lr: Highest learning rate of the heads (AdamW; linear warm-up, then a cosine to 0).
        weight_decay: AdamW's, for matrices; biases and norms get none.
        warmup: Share of the steps that warms up, in ``[0, 1)``.
        seed: Seed of the split, the order of the rows and dropout, 0 to 2**32 - 1. The global generators of Python,
            NumPy and torch are seeded with it, and stay where training leaves them.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``fp32``, ``bf16`` or ``fp16`` autocast; ``auto`` takes bf16 where a CUDA device has it.
        validation: Share of the training rows to choose the best epoch by, where the data gives none; 0 for none.
        patience: Epochs without a better one before training stops; None for never.
        select: What decides which epoch is best: ``loss``; ``tasks``, the mean of all tasks' own choices, those of
            which less is better as a share of what a constant gives; or ``task/metric``. By default the task's own
            choice if there is one task, else the loss.
        strict: Whether an unreadable picture is an error instead of a skipped row.
        workers: Processes that open pictures; None for one a core on CUDA and none elsewhere.
        augmentation: How training pictures are varied: ``light``, ``standard``, an ``Augmentation``, or None for not at
            all. Each epoch sees another view of a picture, decided by the seed, the epoch and the row, whatever the
            number of workers; validation, test and prediction always see the plain picture. A backbone that never
            trains is then run on the views of each epoch, and no features are kept.
        progress: Whether to show a progress bar.
        settings: The method's own settings.

    Returns:
        What happened, epoch by epoch.

    Raises:
        UnknownName: If the method, a setting, a label column or ``select`` does not exist.
        ConfigError: If a setting cannot be used.
        DataError: If the data cannot be used; nothing is trained then.
    """
    run = Settings(
        epochs, batch_size, lr, weight_decay, warmup, seed, device, precision, validation, patience, select, workers,
        _augmentation(augmentation),
    )  # fmt: skip
    started = time.monotonic()
    place = pick_device(device)
    lowered = _precision(precision, place)
    kind = registry().method_class(method)
    own = {name for name in inspect.signature(fit).parameters if name != "settings"}
    check_options(f"zoo.fit with the method {method!r}", settings, own | {field.name for field in fields(kind)})
    chosen = kind.with_settings(method, settings)
    plan = _plan(chosen, model, run)
    decides, higher = _selection(model, select)
    table = read_for(model, data, strict=strict)
    columns = columns_of(model, table)
    check_labels(table, sorted(set(columns.values())))
    parts = _split(table, columns, run)
    targets = {part: row_targets(model, rows, columns) for part, rows in parts.items()}
    for name, task in model.tasks().items():
        task.prepare(labels_of(parts["train"].column(columns[name])))
    history = History(
        method=method,
        settings={**asdict(run), **asdict(chosen)},
        rows={part: len(rows) for part, rows in parts.items()},
        skipped=[{"name": row.name, "reason": row.reason} for row in table.skipped],
        device=str(place),
        precision=lowered,
    )
    if decides == TASKS and "validation" in targets:
        history.baselines = baselines(model.tasks(), targets["train"], targets["validation"])
    _tell(model, table, columns, history)
    datasets = make_datasets(model, plan, parts, targets, history, place, run)
    learn_features(model, datasets["train"], batch_size=batch_size, place=place)
    if not rest(model, plan):
        train(model, plan, datasets, run, history, place, decides=decides, higher=higher, progress=progress)
    _close(model, datasets, history, place, batch_size)
    history.seconds = time.monotonic() - started
    model.provenance = _provenance(table, columns, history)
    return history


def _augmentation(given: Augmentation | str | None) -> Augmentation | None:
    """Read how training pictures are varied; None for one that changes nothing, so that features can be kept."""
    read = Augmentation.of(given)
    return None if read.idle else read


def _plan(method: Method, model: Model, run: Settings) -> Plan:
    streams = {name: model.spec.streams[name].backbone for name in model.backbones}
    plan = method.plan(streams, epochs=run.epochs, lr=run.lr)
    if len(plan.epochs) != run.epochs:
        raise ConfigError(f"The method planned {len(plan.epochs)} epochs, and {run.epochs} were asked for.")
    return plan


def _split(table: Table, columns: Mapping[str, str], run: Settings) -> Mapping[str, Table]:
    fractions = {"train": 1 - run.validation}
    if run.validation:
        fractions["validation"] = run.validation
    return split_table(table, fractions=fractions, seed=run.seed, stratify=sorted(set(columns.values())))


def _selection(model: Model, select: str | None) -> tuple[str, bool]:
    """Find what decides which epoch is best, and whether more of it is better."""
    tasks = model.tasks()
    if select is None and len(tasks) == 1:
        name, task = next(iter(tasks.items()))
        metric, higher = task.best_metric
        return f"{name}/{metric}", higher
    if select in (None, "loss"):
        return "loss", False
    if select == TASKS:
        check_tasks(tasks)
        return select, True
    known = {f"{name}/{key}": metric for name, task in tasks.items() for key, metric in task.metrics().items()}
    if select not in known:
        raise UnknownName(f"select={select!r} is no metric of this model; choose of loss, tasks, {', '.join(known)}.")
    return select, bool(known[select].higher_is_better)


def _precision(asked: str, place: torch.device) -> str:
    if asked == "auto":
        return "bf16" if place.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if asked == "fp16" and place.type != "cuda":
        raise ConfigError(f"precision fp16 needs a CUDA device, and this run is on {place.type}; use bf16 or fp32.")
    return asked


def _tell(model: Model, table: Table, columns: Mapping[str, str], history: History) -> None:
    log.info("%s: %s.", table.source, ", ".join(f"{count} {part}" for part, count in history.rows.items()))
    for row in table.skipped:
        log.info("Skipped %s: %s", row.name, row.reason)
    for name, task in model.tasks().items():
        classes = getattr(task.config, "classes", None)
        what = f": {', '.join(f'{i} {c}' for i, c in enumerate(classes))}" if classes else ""
        log.info("The head %r (%s) learns the column %r%s", name, task.spec.type, columns[name], what)


def _close(
    model: Model, datasets: Mapping[str, Dataset[Row]], history: History, place: torch.device, batch_size: int
) -> None:
    """Measure the final model on what was held out."""
    objective = Objective(model).to(place)
    collator = Collator(model.preparers())

    def run(batch: Mapping[str, Any]) -> Mapping[str, Tensor]:
        return objective.run(batch.get("inputs"), batch.get("features"))

    def on(part: str) -> Metrics:
        return measure(model, DataLoader(datasets[part], batch_size=batch_size, collate_fn=collator), run, place)[1]

    history.validation = on("validation") if "validation" in datasets else {}
    history.test = on("test") if "test" in datasets else None


def _provenance(table: Table, columns: Mapping[str, str], history: History) -> dict[str, Any]:
    """Write down for the bundle how the model came to be; paths of the user's machine stay out of it."""
    told = history.as_json()
    return {
        "method": told["method"],
        "settings": told["settings"],
        "data": {"name": Path(table.source).name, "rows": told["rows"], "columns": dict(columns)},
        "select": told["select"],
        "best_epoch": told["best_epoch"],
        "metrics": {"validation": told["validation"], "test": told["test"]},
        "device": told["device"],
        "precision": told["precision"],
        "seconds": round(told["seconds"], 1),
    }
