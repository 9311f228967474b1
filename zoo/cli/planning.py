"""``zoo plan``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.advising import AUTO
from zoo.cli.arguments import heads_for, read_head, read_settings
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
    Share,
    StreamNames,
    Targets,
)
from zoo.cli.output import note, say_json, say_table, speaks
from zoo.cli.runfile import take_file
from zoo.cli.starting import Streams
from zoo.errors import ConfigError

__all__ = ["plan"]

EXAMPLES = (
    "zoo plan --backbone timm:vit --method discriminative --set decay=0.65\n\n"
    "zoo plan --backbone timm:resnet50 --method gradual_unfreezing --epochs 6\n\n"
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
    """Say what zoo fit would train when, at what rate: stages by epochs, without weights and without training."""
    import zoo
    from zoo.training.rows.tables import input_columns

    streams = Streams.of(backbone, stream or (), inputs or (), share or (), command="zoo plan")
    if method == AUTO:
        raise ConfigError("zoo plan shows the plan of a method by name; zoo advise DATA says which auto would take.")
    if head and target:
        raise ConfigError("--head names the column of each head itself; leave --target out.")
    own = read_settings(settings or (), taken={*context.params, "model", "data"})
    planned = streams.plan()
    specs = [read_head(text) for text in head or ()]
    if data is not None:
        source: dict[str, Any] = {"image": image, "labels": target or None, "masks": mask or ()}
        read = zoo.read(data, **source, **input_columns(planned.modalities))
        specs = heads_for(method, read, specs, asked=bool(specs or target or mask))
    elif target or mask or image:
        raise ConfigError("--target, --mask and --image name columns of DATA, and there is none.")
    model = zoo.build(
        streams.backbones,
        specs or [zoo.head("classifier", classes=["a", "b"])],
        inputs=streams.inputs,
        share=streams.share,
        weights=None,
    )
    table = zoo.plan(
        model,
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
