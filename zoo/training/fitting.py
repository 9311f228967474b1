"""``zoo.fit``: data and a method in, a trained model and its history out."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from zoo.augmentation import Augmentation
from zoo.contracts.objective import Objective
from zoo.data import Table, check_labels, split_table
from zoo.errors import ConfigError, UnknownName
from zoo.model import Model
from zoo.registry import registry
from zoo.strict import check_options
from zoo.training.compiling import check_compiler, compiled
from zoo.training.datasets import make_datasets, prefixes_of
from zoo.training.dividing import turns
from zoo.training.features.replay import playing
from zoo.training.judging.evaluation import measure, pick_device
from zoo.training.judging.history import History, Metrics
from zoo.training.judging.reporting import check_trackers
from zoo.training.judging.selection import TASKS, baselines, check_tasks
from zoo.training.keeping import check_kept
from zoo.training.learning import learn_features, rest
from zoo.training.linear.solving import solve
from zoo.training.linear.standardising import on_standardised
from zoo.training.objectives import check_objective, look
from zoo.training.planning.making import check_judged, make_plan
from zoo.training.planning.optimizers import MakesOptimizer
from zoo.training.planning.resting import begin, rested, trained_tasks
from zoo.training.planning.schedules import Schedule
from zoo.training.planning.settings import Settings
from zoo.training.planning.table import tabulate
from zoo.training.ranks import Ranks, hushed, join, tensors_of
from zoo.training.resuming.continuing import check_folder, continued, own_folder
from zoo.training.resuming.identity import rows_digest
from zoo.training.rows.batches import Collator, Row
from zoo.training.rows.sampling import BalancedRows, balanced_task
from zoo.training.rows.shots import drawn_shots, shots_task
from zoo.training.rows.tables import read_for
from zoo.training.rows.targets import columns_of, labels_of, row_targets
from zoo.training.running import train
from zoo.training.sharding import check_sharded, wanted
from zoo.training.step import Step

__all__ = ["fit"]

log = logging.getLogger("zoo")


@hushed()
def fit(
    model: Model,
    data: Table | str | Path | Any,
    *,
    method: str = "fine_tuning",
    epochs: int = 10,
    batch_size: int = 32,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    warmup: float | None = None,
    optimizer: MakesOptimizer = "adamw",
    optimizer_settings: Mapping[str, Any] | None = None,
    schedule: Schedule = "cosine",
    schedule_settings: Mapping[str, Any] | None = None,
    clip: float = 1.0,
    accumulate: int = 1,
    seed: int = 0,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    validation: float = 0.2,
    patience: int | None = None,
    select: str | None = None,
    strict: bool = False,
    workers: int | None = None,
    augmentation: Augmentation | str | None = None,
    freeze: str | Sequence[str] | None = None,
    freeze_norms: bool = False,
    sampling: str | None = None,
    shots: int | None = None,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    cached_views: int | None = None,
    feature_precision: Literal["fp32", "bf16"] = "fp32",
    solver: Literal["sgd", "lbfgs"] = "sgd",
    ema: float | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    checkpoint_every: int | None = None,
    keep_checkpoints: int = 2,
    report_to: str | Sequence[str] | None = None,
    compile: bool = False,
    sharded: bool = False,
    unlabelled: Table | str | Path | Any | None = None,
    progress: bool = False,
    **settings: Any,
) -> History:
    """Train a model's heads, and of its backbones what the method says.

    Args:
        model: The model; it is trained in place and ends in eval mode with the weights of the best epoch.
        data: A folder of class folders, a CSV or Parquet table with an image column, a Hugging Face or torch data set,
            or a ``zoo.Table``. Labels may be missing in any row.
        method: Name of a training method, such as ``feature_extraction`` or ``fine_tuning``; or ``auto`` for the one
            that ``zoo.advise`` names for the data, with its settings, over which those that are given here go.
        epochs: Passes over the training rows, 1 or more.
        batch_size: Rows in a step, of each process where a launcher such as ``torchrun`` started several; a last batch
            of a single row is left out of its epoch, for BatchNorm's sake.
        lr: Highest learning rate of the heads, above 0.
        weight_decay: Weight decay of matrices; biases, norms and what a library lists as such get none.
        warmup: Share of the steps that warms up, in ``[0, 1)``; None for 0.05, of ``one_cycle`` 0.3.
        optimizer: Name of any class of ``torch.optim`` that can train here, in any case, or a function from groups to
            an optimizer of torch.
        optimizer_settings: Settings of the optimizer, such as ``{"betas": (0.9, 0.95)}``.
        schedule: How rates go from step to step: ``cosine``, ``linear``, ``constant``, ``one_cycle``, ``plateau``, or a
            function of an optimizer and the number of its steps that gives a scheduler of torch.
        schedule_settings: Settings of a named schedule, such as ``{"floor": 0.1}``.
        clip: Largest norm of the gradient of all parameters, in front of each step; 0 for any.
        accumulate: Batches whose gradients make one step, 1 or more; the last step of an epoch takes what is left.
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
        freeze: What rests in this run whatever the method says, in the words of ``Model.freeze``: ``s3`` for all stages
            up to that one, ``stream.s3`` for those of one stream, ``heads.name`` for a head; or a list of these. Apart
            from it the method alone decides what trains, also of what was frozen before.
        freeze_norms: Whether the norms with running statistics keep them in the stages that train, too.
        sampling: How training rows are drawn: None for each once an epoch; ``balanced`` for every class as often as any
            other, with replacement; ``balanced/task`` where several tasks have classes.
        shots: How many labelled training rows of each class are drawn by the seed, 1 or more; the others are left out,
            and validation stays whole. Classes are those of the task that ``select`` names, or of the only one that has
            classes. None for all rows.
        mixup: Whether training pictures are blended with one another: the parameter of the Beta distribution of their
            shares, such as 0.2; 0 for not at all. For heads that learn classes of whole pictures.
        cutmix: The same for rectangles of one picture in the other, such as 1.0; with both, each batch has one of them.
        cached_views: With an augmentation, how many views of each picture what never trains is run on, once each; epoch
            ``e`` sees view ``e`` modulo this, the one that a live run would see in that epoch. None for new views in
            each epoch, with nothing kept.
        feature_precision: In what frozen stages run where they run once a picture: ``fp32``, or ``bf16`` with channels
            last, on processors that compute in it; ``history.feature_difference`` says how far off that is.
        solver: How heads learn on kept features: ``sgd``, steps over batches; or ``lbfgs``, all rows at once to the one
            solution, for linear heads on backbones that rest; of the settings above, ``weight_decay`` is its L2
            penalty, and epochs, batches, rate, warm-up and patience mean nothing to it.
        ema: Decay of an exponential moving average of the weights, in ``(0, 1)``, such as 0.999; the model is judged
            with the averaged weights and ends with them. None for no average.
        checkpoint: The run's folder: a checkpoint is written there at the end of each epoch, and the history as
            ``history.jsonl`` and ``history.csv``; None for none. Ctrl-C finishes the step and writes one, too.
        resume: Whether to go on from the newest checkpoint in that folder that is whole; on the CPU the run ends
            bit-equal to one that was never stopped.
        checkpoint_every: Optimizer steps from one checkpoint to the next, 1 or more, beside those at epochs' ends.
        keep_checkpoints: How many checkpoints are kept, 1 or more; older ones are removed.
        report_to: Trackers that are told of the run, such as ``tensorboard``, ``wandb``, ``mlflow`` or ``trackio``.
        compile: Whether backbones run through ``torch.compile`` while they train; nothing else of the model changes,
            and frozen stages run in each step, with nothing kept.
        sharded: Whether each of several processes holds a part of the weights, their gradients and the optimizer's
            state (FSDP) instead of all (DDP); ``accelerate launch --use_fsdp`` says so, too. The model is whole in
            every process before and after, and while it is judged.
        unlabelled: Rows without labels, for methods that learn from them; read as ``data`` is, and its label columns,
            if it has any, are not looked at.
        progress: Whether to show a progress bar.
        settings: The method's own settings.

    Returns:
        What happened, epoch by epoch.

    Raises:
        UnknownName: If the method, a setting, a label column, ``select`` or what is to be frozen does not exist.
        ConfigError: If a setting cannot be used, or nothing is left to train.
        DataError: If the data cannot be used; nothing is trained then. Or if one of its files changes during the run.
        TrainingError: If a loss or gradient becomes NaN or infinite.
        PluginError: If a tracker is not installed.
        BundleError: If a checkpoint's backbone cannot be put in the user's store, or another run trains in the folder.
        KeyboardInterrupt: After Ctrl-C; with ``checkpoint``, once one is written.
    """
    run = Settings.of(
        epochs=epochs, batch_size=batch_size, lr=lr, weight_decay=weight_decay, warmup=warmup, seed=seed, device=device,
        precision=precision, validation=validation, patience=patience, select=select, workers=workers,
        augmentation=augmentation, optimizer=optimizer, optimizer_settings=optimizer_settings, schedule=schedule,
        schedule_settings=schedule_settings, clip=clip, accumulate=accumulate, freeze=freeze, freeze_norms=freeze_norms,
        cached_views=cached_views, sampling=sampling, shots=shots, mixup=mixup, cutmix=cutmix,
        feature_precision=feature_precision, solver=solver, ema=ema, checkpoint=checkpoint, resume=resume,
        checkpoint_every=checkpoint_every, keep_checkpoints=keep_checkpoints, report_to=check_trackers(report_to),
        compile=compile, sharded=wanted(sharded),
    )  # fmt: skip
    check_folder(run)
    started = time.monotonic()
    place = pick_device(device)
    ranks = join(place)
    lowered = _precision(precision, place)
    kind = registry().method_class(method)
    own = {name for name in inspect.signature(fit).parameters if name != "settings"}
    check_options(f"zoo.fit with the method {method!r}", settings, own | {field.name for field in fields(kind)})
    chosen = kind.with_settings(method, settings)
    chosen.prepare(model, seed=run.seed)
    ranks.equalize(tensors_of(model))
    plan = rested(model, make_plan(chosen, model, epochs=epochs, lr=lr, schedule=schedule), run.freeze)
    objective = chosen.objective(model, seed=run.seed)
    check_objective(objective, method, model, plan, run, unlabelled=unlabelled is not None)
    check_sharded(model, objective, run, method, ranks)
    labelled = objective is None or objective.labelled
    check_kept(model, plan, run, place)
    check_compiler(model, plan, run, place)
    if run.mixing is not None:
        run.mixing.check(model)
    balanced = balanced_task(model, run.sampling)
    decides, higher = _selection(model, select)
    of_few = shots_task(model, run.shots, decides)
    table = read_for(model, data, strict=strict)
    columns = columns_of(model, table) if labelled else {}
    check_labels(table, sorted(set(columns.values())))
    parts = _split(table, columns, run) if labelled else {"train": _trained(table)}
    if labelled:
        chosen.meet(model, parts["train"], columns, seed=run.seed)
    if of_few is not None and run.shots is not None:
        parts = drawn_shots(model, parts, columns, of_few, run.shots, run.seed)
    if labelled:
        parts = {**parts, "train": chosen.rows(model, parts["train"], columns)}
    more = None if unlabelled is None else read_for(model, unlabelled, strict=strict)
    if ranks.several:
        ranks.check_same({part: rows_digest(rows, columns) for part, rows in parts.items()}, "rows, in the same order")
    check_judged(plan, run, judged="validation" in parts)
    targets = {part: row_targets(model, rows, columns) if labelled else {} for part, rows in parts.items()}
    for name, task in trained_tasks(model, run.freeze).items() if labelled else ():
        task.prepare(labels_of(parts["train"].column(columns[name])))
    history = History(
        method=method,
        settings={**run.told(), **chosen.told()},
        rows={part: len(rows) for part, rows in parts.items()},
        skipped=[{"name": row.name, "reason": row.reason} for row in table.skipped],
        device=str(place),
        precision=lowered,
    )
    if decides == TASKS and "validation" in targets:
        history.baselines = baselines(model.tasks(), targets["train"], targets["validation"])
    _tell(model, table, columns, history)
    begin(model, plan, run.freeze, norms=freeze_norms)
    if run.solver == "sgd":
        log.info("%s", tabulate(model, plan, method, chosen.told(), run))
    else:
        log.info("%s: the backbones rest, and the heads are solved for at once.", method)
    if objective is not None:
        look(objective, model, parts["train"], targets["train"], more, run, place, columns)
    datasets = ranks.after_first(
        lambda: make_datasets(model, plan, parts, targets, history, place, run, objective=objective, unlabelled=more)
    )
    keeper = None
    with playing(model, prefixes_of(datasets)):
        if labelled:
            learn_features(model, datasets["train"], batch_size=batch_size, place=place)
        if objective is None and rest(model, plan):
            pass
        elif run.solver == "lbfgs":
            solve(model, datasets["train"], run, history, place)
        else:
            with own_folder(run, ranks), on_standardised(model, datasets["train"], place), compiled(model, run):
                keeper, resumed = continued(model, plan, parts, columns, run, history, ranks)
                train(
                    model, plan, datasets, run, history, place, parts=parts, decides=decides, higher=higher,
                    progress=progress, keeper=keeper, resumed=resumed, ranks=ranks,
                    sampler=_sampler(balanced, objective, targets["train"], run), objective=objective,
                )  # fmt: skip
        ranks.equalize(tensors_of(model))
        if objective is not None:
            objective.finish(model)
        chosen.finish(model)
        _close(model, datasets, history, place, batch_size, ranks)
    history.seconds = time.monotonic() - started + (0.0 if keeper is None else keeper.spent)
    model.provenance = _provenance(table, columns, history)
    return history


def _trained(table: Table) -> Table:
    """Give the rows that are not held out by the data itself."""
    held = table.split or ()
    return table.select([row for row, part in enumerate(held) if part in (None, "train")]) if any(held) else table


def _sampler(
    balanced: str | None, objective: Objective | None, targets: Mapping[str, Any], run: Settings
) -> Sampler[int] | None:
    """Give what draws the training rows; None for each once an epoch."""
    if balanced is not None:
        return BalancedRows.of(balanced, targets, run.seed)
    return None if objective is None else objective.order(targets, run.seed)


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
    for name, task in model.tasks().items() if columns else ():
        classes = getattr(task.config, "classes", None)
        what = f": {', '.join(f'{i} {c}' for i, c in enumerate(classes))}" if classes else ""
        log.info("The head %r (%s) learns the column %r%s", name, task.spec.type, columns[name], what)


def _close(
    model: Model,
    datasets: Mapping[str, Dataset[Row]],
    history: History,
    place: torch.device,
    batch_size: int,
    ranks: Ranks,
) -> None:
    """Measure the final model on what was held out."""
    objective = Step(model).to(place)
    collator = Collator(model.preparers())

    def run(batch: Mapping[str, Any]) -> Mapping[str, Tensor]:
        return objective.run(batch.get("inputs"), batch.get("features"))

    def on(part: str) -> Metrics:
        rows: Any = datasets[part]
        loader = DataLoader(rows, batch_sampler=turns(model, len(rows), batch_size, ranks), collate_fn=collator)
        return measure(model, loader, run, place, ranks=ranks)[1]

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
