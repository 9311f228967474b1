"""``zoo fit`` and ``zoo evaluate``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.advising import AUTO
from zoo.cli.again import typed_again
from zoo.cli.arguments import check_target, read_augmentation, read_settings
from zoo.cli.optimizing import OptimizerName, OptimizerSettings, ScheduleName, ScheduleSettings, Warmup, WeightDecay
from zoo.cli.options import (
    AsJson,
    Backbone,
    BatchSize,
    BundleAt,
    Device,
    Epochs,
    Heads,
    ImageColumn,
    Inputs,
    Masks,
    MethodSettings,
    Rate,
    SavedModel,
    Seed,
    Share,
    StreamNames,
    Strict,
    Targets,
    Weights,
)
from zoo.cli.output import note, say, say_json, say_table, speaks
from zoo.cli.runfile import is_said, take_file
from zoo.cli.starting import Start, start_of
from zoo.errors import ConfigError

if TYPE_CHECKING:
    from zoo.model import Model
    from zoo.training.judging.history import History

__all__ = ["evaluate", "fit"]

FIT_EXAMPLES = (
    "zoo fit pictures/ --backbone timm:mobilenetv3 --out my-model\n\n"
    "zoo fit cells.csv --backbone timm:resnet18 --out cells --target defect --target age --epochs 20\n\n"
    'zoo fit cells.csv --backbone timm:resnet18 --out cells --head defect=classifier --head \'{"type": "regression", '
    '"name": "age", "loss": "huber"}\'\n\n'
    "zoo fit pictures/ --backbone timm:vit --out my-model --method feature_extraction\n\n"
    "zoo fit pictures/ --backbone timm:vit --out my-model --method auto --epochs 5\n\n"
    "zoo fit pairs.csv --stream rgb=timm:resnet18 --stream flow=timm:resnet18 --out pairs "
    '--head \'{"type": "classifier", "name": "action", "stream": "rgb"}\'\n\n'
    "zoo fit more.csv --model my-model --out my-model-2 --method continual\n\n"
    "zoo fit --file run.yaml"
)
EVALUATE_EXAMPLES = "zoo evaluate my-model pictures/ --split test\n\nzoo evaluate my-model new.csv --json"

RUN = (
    *("method", "epochs", "batch_size", "lr", "weight_decay", "seed"),
    *("device", "precision", "validation", "patience", "select", "augmentation", "strict"),
    *("ema", "checkpoint", "resume", "checkpoint_every", "keep_checkpoints", "report_to"),
    *("freeze", "freeze_norms", "sampling", "shots", "mixup", "cutmix"),
    *("cached_views", "feature_precision", "solver", "compile", "sharded", "unlabelled"),
    *("warmup", "optimizer", "schedule", "clip", "accumulate"),
)
"""The options of ``zoo fit`` that ``zoo.fit`` takes as they are."""

ALWAYS = ("method", "seed", "device", "strict")
"""Those that ``zoo.fit`` gets also where ``--method auto`` leaves the others to the advice."""

OF_OTHERS = {"optimizer_settings": "--set-optimizer", "schedule_settings": "--set-schedule"}
"""Settings that are written as those of the method are, with the option for each."""

DATA = "Folder of class folders, or CSV, TSV or Parquet table."
Data = Annotated[str, typer.Argument(metavar="DATA", help=DATA)]


@speaks
def fit(
    context: typer.Context,
    data: Annotated[str | None, typer.Argument(metavar="DATA", help=DATA, show_default=False)] = None,
    backbone: Backbone = None,
    out: Annotated[str | None, typer.Option(metavar="BUNDLE", help="Folder or URL of the new bundle.")] = None,
    file: Annotated[  # its options are known before the others are read
        Path | None,
        typer.Option(is_eager=True, callback=take_file, metavar="FILE", help="Options as YAML or JSON; zoo schema."),
    ] = None,
    stream: StreamNames = None,
    inputs: Inputs = None,
    share: Share = None,
    head: Heads = None,
    target: Targets = None,
    mask: Masks = None,
    model: SavedModel = None,
    method: Annotated[str, typer.Option(help="Training method, or auto; zoo methods.")] = "fine_tuning",
    settings: MethodSettings = None,
    epochs: Epochs = 10,
    batch_size: BatchSize = 32,
    lr: Rate = 1e-3,
    weight_decay: WeightDecay = 0.01,
    warmup: Warmup = None,
    optimizer: OptimizerName = "adamw",
    optimizer_settings: OptimizerSettings = None,
    schedule: ScheduleName = "cosine",
    schedule_settings: ScheduleSettings = None,
    clip: Annotated[float, typer.Option(min=0, help="Largest norm of the gradient; 0 for any.")] = 1.0,
    accumulate: Annotated[int, typer.Option(min=1, metavar="N", help="Batches whose gradients make one step.")] = 1,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16.")] = "auto",
    validation: Annotated[float, typer.Option(help="Share of the rows to choose the best epoch by; 0 for none.")] = 0.2,
    patience: Annotated[int | None, typer.Option(min=1, help="Epochs without a better one before it stops.")] = None,
    select: Annotated[str | None, typer.Option(metavar="NAME", help="Best epoch: loss, tasks, or TASK/METRIC.")] = None,
    augmentation: Annotated[
        str | None, typer.Option(metavar="NAME", help="Vary training pictures: light, standard, or JSON.")
    ] = None,
    freeze: Annotated[
        list[str] | None, typer.Option(metavar="STAGE", help="Rests up to this one, as s3; heads.NAME. Repeatable.")
    ] = None,
    cached_views: Annotated[
        int | None, typer.Option(min=1, help="Views of a picture that frozen stages run on, once each.")
    ] = None,
    feature_precision: Annotated[str, typer.Option(help="fp32, or bf16 for what frozen stages give once.")] = "fp32",
    solver: Annotated[str, typer.Option(help="sgd, or lbfgs for linear heads on frozen backbones.")] = "sgd",
    freeze_norms: Annotated[
        bool, typer.Option("--freeze-norms", help="Norms keep their running statistics, whatever trains.")
    ] = False,
    sampling: Annotated[str | None, typer.Option(metavar="NAME", help="balanced, or balanced/TASK.")] = None,
    shots: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="So many labelled training rows of each class, by seed.")
    ] = None,
    mixup: Annotated[float, typer.Option(help="Blend training pictures: Beta parameter, such as 0.2.")] = 0.0,
    cutmix: Annotated[float, typer.Option(help="Rectangles of other training pictures: Beta parameter.")] = 0.0,
    ema: Annotated[float | None, typer.Option(metavar="DECAY", help="Average the weights, such as 0.999.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep checkpoints and the history in this folder.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint there.")] = False,
    checkpoint_every: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="A checkpoint every N steps, beside each epoch's.")
    ] = None,
    keep_checkpoints: Annotated[int, typer.Option(min=1, metavar="N", help="How many checkpoints are kept.")] = 2,
    report_to: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Tracker, such as tensorboard or wandb. Repeatable.")
    ] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="Train through torch.compile; the bundle is as without.")
    ] = False,
    sharded: Annotated[
        bool, typer.Option("--sharded", help="Of several processes each holds a part of the model (FSDP).")
    ] = False,
    unlabelled: Annotated[
        str | None, typer.Option(metavar="DATA", help="Rows without labels, for methods that learn from them.")
    ] = None,
    weights: Weights = "pretrained",
    image: ImageColumn = None,
    split: Annotated[
        str | None, typer.Option("--split", "--split-column", metavar="COL", help="Column of train, validation, test.")
    ] = None,
    strict: Strict = False,
    kind: Annotated[str, typer.Option(help="full, or delta: the backbones only by what differs from --base.")] = "full",
    base: Annotated[
        str | None, typer.Option(metavar="BUNDLE", help="What a delta is based on; the library's weights by default.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train heads on one backbone or several, or a saved model on, and save the bundle."""
    from zoo.bundle.saving import check_kind
    from zoo.remote import is_url
    from zoo.training.ranks import rank, world_size

    if data is None:
        raise ConfigError("zoo fit needs DATA, on the command line or in --file.")
    start = start_of(context)
    if out is None:
        raise ConfigError("zoo fit needs --out BUNDLE, on the command line or in --file.")
    run = {name: context.params[name] for name in RUN} | {"progress": sys.stderr.isatty()}
    run |= read_settings(settings or (), taken={*run, *OF_OTHERS, "model", "data"})
    for name, option in OF_OTHERS.items():
        run[name] = read_settings(context.params[name] or (), taken=(), option=option)
    run["augmentation"] = read_augmentation(augmentation)
    if method == AUTO:  # what was not said is for the advice to say
        run = {key: value for key, value in run.items() if key in ALWAYS or is_said(context, key)}
    check_target(out, overwrite=overwrite)
    check_kind(kind, base)
    saving: dict[str, Any] = {"kind": kind, "base": base, "overwrite": overwrite}
    source = {"image": image, "split": split, "labels": target or None, "masks": mask or (), "strict": strict}
    try:
        history, saved, trained = _train(start, data, source, run, out, saving)
    except KeyboardInterrupt as stop:
        if checkpoint is not None and rank() == 0:
            again = f", in {world_size()} processes again," if world_size() > 1 else ""
            told = f"Go on{again} with: {typed_again(context, '--resume')}"
            note(" ".join([getattr(stop, "told", ""), told]).strip())
        raise
    if rank():
        return None  # of several processes the first one tells
    if as_json:
        return say_json({**history.as_json(), "bundle": saved})
    saved = saved if is_url(out) else str(Path(out))
    return _say_history(history, saved, len(trained.modalities), bare=not trained.tasks())


def _train(
    start: Start,
    data: str,
    source: Mapping[str, Any],
    run: Mapping[str, Any],
    out: str,
    saving: Mapping[str, Any],
) -> tuple[History, str, Model]:
    """Find what is wrong at no cost first; then read, build, train and save."""
    import zoo
    from zoo.registry import registry
    from zoo.remote import shown
    from zoo.training.judging.evaluation import pick_device
    from zoo.training.ranks import hushed, rank

    pick_device(run["device"])
    if run["method"] != AUTO:
        registry().method_class(run["method"])
    with hushed():
        model, table = start.make(data, source, method=run["method"], seed=run["seed"])
        history = zoo.fit(model, table, **run)
    return history, "" if rank() else shown(model.save(out, **saving)), model


def _say_history(history: History, out: str, inputs: int, *, bare: bool) -> None:
    parts = {"validation": history.validation, "test": history.test or {}}
    names = [(task, metric) for metrics in parts.values() for task in metrics for metric in metrics[task]]
    shown = [part for part, metrics in parts.items() if metrics]
    rows = [
        (task, metric, *(_number(parts[part].get(task, {}).get(metric)) for part in shown))
        for task, metric in dict.fromkeys(names)
    ]
    if rows:
        say_table(("task", "metric", *shown), rows, numbers=shown)
    if history.select is not None:
        say(f"best epoch {history.best_epoch} of {len(history.epochs)}, by {history.select}")
    if history.skipped:
        note(f"left out, since they could not be read: {len(history.skipped)}")
    if not bare:
        example = "picture.jpg" if inputs == 1 else "table.csv"
        return say(f"{out} is saved. Next: zoo predict {shlex.quote(out)} {example}")
    return say(f"{out} is saved; it has no heads. Next: zoo fit DATA … --weights {shlex.quote(out)} --out BUNDLE")


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"


@speaks
def evaluate(
    bundle: BundleAt,
    data: Data,
    split: Annotated[str | None, typer.Option(metavar="PART", help="Only train, validation or test.")] = None,
    split_column: Annotated[str | None, typer.Option(metavar="COL", help="Column of train, validation, test.")] = None,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    image: ImageColumn = None,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Measure a bundle on labelled data."""
    import zoo
    from zoo.training.rows.tables import read_for

    model = zoo.load(bundle)
    table = read_for(model, data, image=image, split=split_column, strict=strict)
    for row in table.skipped:
        note(f"skipped {row}")
    metrics = zoo.evaluate(model, table, split=split, batch_size=batch_size, device=device)
    if as_json:
        return say_json(metrics)
    rows = [(task, metric, _number(value)) for task, found in metrics.items() for metric, value in found.items()]
    return say_table(("task", "metric", split or "all rows"), rows, numbers=(split or "all rows",))
