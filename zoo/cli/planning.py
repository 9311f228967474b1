"""``zoo plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.advising import AUTO
from zoo.cli.arguments import read_settings
from zoo.cli.optimizing import OptimizerName, OptimizerSettings, ScheduleName, ScheduleSettings, Warmup, WeightDecay
from zoo.cli.options import (
    AsJson,
    Backbone,
    Epochs,
    Heads,
    ImageColumn,
    Inputs,
    Masks,
    MethodSettings,
    Rate,
    SavedModel,
    Share,
    StreamNames,
    Targets,
)
from zoo.cli.output import note, say_json, say_table, speaks
from zoo.cli.runfile import take_file
from zoo.cli.starting import New, Saved, start_of
from zoo.errors import ConfigError

if TYPE_CHECKING:
    from zoo.model import Model

__all__ = ["plan"]

EXAMPLES = (
    "zoo plan --backbone timm:vit --method discriminative --set decay=0.65\n\n"
    "zoo plan --backbone timm:resnet50 --method gradual_unfreezing --epochs 6\n\n"
    "zoo plan --model my-model --method partial\n\n"
    "zoo plan cells.csv --backbone hf:bert --method bitfit --json"
)
DATA = "Data whose labels decide the heads; a classifier of two classes by default."


@speaks
def plan(
    context: typer.Context,
    data: Annotated[str | None, typer.Argument(metavar="DATA", help=DATA, show_default=False)] = None,
    backbone: Backbone = None,
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
    method: Annotated[str, typer.Option(help="Training method; zoo methods.")] = "fine_tuning",
    settings: MethodSettings = None,
    epochs: Epochs = 10,
    lr: Rate = 1e-3,
    weight_decay: WeightDecay = 0.01,
    warmup: Warmup = None,
    optimizer: OptimizerName = "adamw",
    optimizer_settings: OptimizerSettings = None,
    schedule: ScheduleName = "cosine",
    schedule_settings: ScheduleSettings = None,
    freeze: Annotated[
        list[str] | None, typer.Option(metavar="STAGE", help="Rests up to this one, as s3; heads.NAME. Repeatable.")
    ] = None,
    image: ImageColumn = None,
    as_json: AsJson = False,
) -> None:
    """Say what zoo fit would train when, at what rate: stages by epochs, without training."""
    import zoo

    if method == AUTO:
        raise ConfigError("zoo plan shows the plan of a method by name; zoo advise DATA says which auto would take.")
    own = read_settings(settings or (), taken={*context.params, "model", "data"})
    source: dict[str, Any] = {
        "image": image,
        "split": None,
        "labels": target or None,
        "masks": mask or (),
        "strict": False,
    }
    if data is None and (target or mask or image):
        raise ConfigError("--target, --mask and --image name columns of DATA, and there is none.")
    start = start_of(context)
    made = _built(start, data, source, method) if isinstance(start, New) else _saved(start, data, source, method)
    table = zoo.plan(
        made,
        method=method,
        epochs=epochs,
        lr=lr,
        weight_decay=weight_decay,
        warmup=warmup,
        optimizer=optimizer,
        optimizer_settings=read_settings(optimizer_settings or (), taken=(), option="--set-optimizer"),
        schedule=schedule,
        schedule_settings=read_settings(schedule_settings or (), taken=(), option="--set-schedule"),
        freeze=freeze,
        **own,
    )
    if as_json:
        return say_json(table.as_json())
    names, *rows = table.lines()
    note(table.caption())
    return say_table(names, rows, numbers=("parameters",))


def _built(start: New, data: str | None, source: dict[str, Any], method: str) -> Model:
    """Build a model without weights, with a classifier of two classes where nothing says more."""
    import zoo

    if data is not None:
        return start.make(data, source, method=method, seed=0)[0]
    streams = start.streams
    heads = start.heads or [zoo.head("classifier", classes=["a", "b"])]
    return zoo.build(streams.backbones, heads, inputs=streams.inputs, share=streams.share, weights=None)


def _saved(start: Saved, data: str | None, source: dict[str, Any], method: str) -> Model:
    """Load a model, having seen that its heads find their columns in the data, where there are some."""
    from zoo.training.rows.targets import columns_of

    if data is None:
        return start.load()
    model, table = start.make(data, source, method=method, seed=0)
    columns_of(model, table)
    return model
