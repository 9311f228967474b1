"""``zoo fit`` and ``zoo evaluate``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.arguments import check_target, read_augmentation, read_head, read_settings, read_weights
from zoo.cli.options import AsJson, BatchSize, Bundle, Device, ImageColumn, Strict
from zoo.cli.output import note, say, say_json, say_table, speaks
from zoo.errors import ConfigError

if TYPE_CHECKING:
    from zoo.training.history import History

__all__ = ["evaluate", "fit"]

FIT_EXAMPLES = (
    "zoo fit pictures/ --backbone timm:mobilenetv3 --out my-model\n\n"
    "zoo fit cells.csv --backbone timm:resnet18 --out cells --target defect --target age --epochs 20\n\n"
    'zoo fit cells.csv --backbone timm:resnet18 --out cells --head defect=classifier --head \'{"type": "regression", '
    '"name": "age", "loss": "huber"}\'\n\n'
    "zoo fit pictures/ --backbone timm:vit --out my-model --method feature_extraction"
)
EVALUATE_EXAMPLES = "zoo evaluate my-model pictures/ --split test\n\nzoo evaluate my-model new.csv --json"

RUN = (
    *("method", "epochs", "batch_size", "lr", "weight_decay", "seed"),
    *("device", "precision", "validation", "patience", "select", "augmentation", "strict"),
)
"""The options of ``zoo fit`` that ``zoo.fit`` takes as they are."""

Data = Annotated[str, typer.Argument(metavar="DATA", help="Folder of class folders, or CSV, TSV or Parquet table.")]


@speaks
def fit(
    context: typer.Context,
    data: Data,
    backbone: Annotated[str, typer.Option(metavar="REF", help="Backbone, such as timm:mobilenetv3.")],
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="Folder of the new bundle.")],
    head: Annotated[list[str] | None, typer.Option(metavar="SPEC", help="TYPE, NAME=TYPE or JSON. Repeatable.")] = None,
    target: Annotated[list[str] | None, typer.Option(metavar="COL", help="Column to learn. Repeatable.")] = None,
    method: Annotated[str, typer.Option(help="Training method; zoo list --methods.")] = "fine_tuning",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Setting of the method. Repeatable.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training rows.")] = 10,
    batch_size: BatchSize = 32,
    lr: Annotated[float, typer.Option(help="Highest learning rate of the heads.")] = 1e-3,
    weight_decay: Annotated[float, typer.Option(help="AdamW's weight decay.")] = 0.01,
    seed: Annotated[int, typer.Option(min=0, help="Seed of new weights, split, order and dropout.")] = 0,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16.")] = "auto",
    validation: Annotated[float, typer.Option(help="Share of the rows to choose the best epoch by; 0 for none.")] = 0.2,
    patience: Annotated[int | None, typer.Option(min=1, help="Epochs without a better one before it stops.")] = None,
    select: Annotated[str | None, typer.Option(metavar="NAME", help="Best epoch by loss, or TASK/METRIC.")] = None,
    augmentation: Annotated[
        str | None, typer.Option(metavar="NAME", help="Vary training pictures: light, standard, or JSON.")
    ] = None,
    weights: Annotated[str, typer.Option(help="pretrained, none, or a safetensors file.")] = "pretrained",
    image: ImageColumn = None,
    split: Annotated[
        str | None, typer.Option("--split", "--split-column", metavar="COL", help="Column of train, validation, test.")
    ] = None,
    strict: Strict = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train heads on a backbone and save the bundle."""
    run = {name: context.params[name] for name in RUN} | {"progress": sys.stderr.isatty()}
    if head and target:
        raise ConfigError("--head names the column of each head itself; leave --target out.")
    heads = [read_head(text) for text in head or ()]
    run |= read_settings(settings or (), taken={*run, "model", "data"})
    run["augmentation"] = read_augmentation(augmentation)
    check_target(out, overwrite=overwrite)
    source = {"image": image, "split": split, "labels": target or None, "strict": strict}
    history, saved = _train(data, source, backbone, heads, read_weights(weights), run, out, overwrite=overwrite)
    if as_json:
        return say_json({**history.as_json(), "bundle": str(saved)})
    return _say_history(history, out)


def _train(
    data: str,
    source: Mapping[str, Any],
    backbone: str,
    heads: list[Any],
    weights: str | None,
    run: Mapping[str, Any],
    out: Path,
    *,
    overwrite: bool,
) -> tuple[History, Path]:
    """Find what is wrong at no cost first; then read, build, train and save."""
    import zoo
    from zoo.registry import registry
    from zoo.training.evaluation import pick_device

    pick_device(run["device"])
    zoo.resolve(backbone)
    registry().method_class(run["method"])
    table = zoo.read(data, **source)
    specs = zoo.infer_heads(table, heads=heads)
    model = zoo.build(backbone, specs, weights=weights, seed=run["seed"])
    history = zoo.fit(model, table, **run)
    return history, model.save(out, overwrite=overwrite)


def _say_history(history: History, out: Path) -> None:
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
    say(f"{out} is saved. Next: zoo predict {shlex.quote(str(out))} picture.jpg")


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"


@speaks
def evaluate(
    bundle: Bundle,
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

    model = zoo.load(bundle)
    table = zoo.read(data, image=image, split=split_column, strict=strict)
    for row in table.skipped:
        note(f"skipped {row}")
    metrics = zoo.evaluate(model, table, split=split, batch_size=batch_size, device=device)
    if as_json:
        return say_json(metrics)
    rows = [(task, metric, _number(value)) for task, found in metrics.items() for metric, value in found.items()]
    return say_table(("task", "metric", split or "all rows"), rows, numbers=(split or "all rows",))
