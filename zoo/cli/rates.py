"""``zoo find-lr``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.cli.arguments import read_augmentation, read_settings
from zoo.cli.optimizing import OptimizerName, OptimizerSettings, WeightDecay
from zoo.cli.options import (
    AsJson,
    Backbone,
    BatchSize,
    Device,
    Heads,
    ImageColumn,
    Inputs,
    Masks,
    MethodSettings,
    SavedModel,
    Seed,
    Share,
    StreamNames,
    Strict,
    Targets,
    Weights,
)
from zoo.cli.output import note, say, say_json, speaks
from zoo.cli.starting import start_of
from zoo.cli.training import DATA

__all__ = ["find_lr"]

EXAMPLES = (
    "zoo find-lr pictures/ --backbone timm:mobilenetv3\n\n"
    "zoo find-lr more.csv --model my-model\n\n"
    "zoo find-lr pictures/ --backbone timm:vit --method feature_extraction --picture rates.png"
)


@speaks
def find_lr(
    context: typer.Context,
    data: Annotated[str, typer.Argument(metavar="DATA", help=DATA)],
    backbone: Backbone = None,
    stream: StreamNames = None,
    inputs: Inputs = None,
    share: Share = None,
    head: Heads = None,
    target: Targets = None,
    mask: Masks = None,
    model: SavedModel = None,
    method: Annotated[str, typer.Option(help="Training method; zoo methods.")] = "fine_tuning",
    settings: MethodSettings = None,
    steps: Annotated[int, typer.Option(min=10, help="Steps from the lowest rate to the highest.")] = 100,
    lowest: Annotated[float, typer.Option(help="The heads' learning rate in the first step.")] = 1e-6,
    highest: Annotated[float, typer.Option(help="The heads' learning rate in the last step.")] = 1.0,
    batch_size: BatchSize = 32,
    weight_decay: WeightDecay = 0.01,
    optimizer: OptimizerName = "adamw",
    optimizer_settings: OptimizerSettings = None,
    seed: Seed = 0,
    device: Device = "auto",
    validation: Annotated[float, typer.Option(help="Share of the rows that is left out, as zoo fit does.")] = 0.2,
    augmentation: Annotated[
        str | None, typer.Option(metavar="NAME", help="Vary training pictures: light, standard, or JSON.")
    ] = None,
    freeze: Annotated[
        list[str] | None, typer.Option(metavar="STAGE", help="Rests up to this one, as s3; heads.NAME. Repeatable.")
    ] = None,
    freeze_norms: Annotated[
        bool, typer.Option("--freeze-norms", help="Norms keep their running statistics, whatever trains.")
    ] = False,
    weights: Weights = "pretrained",
    image: ImageColumn = None,
    split: Annotated[
        str | None, typer.Option("--split", "--split-column", metavar="COL", help="Column of train, validation, test.")
    ] = None,
    strict: Strict = False,
    picture: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the loss over the rate, as PNG.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look for a learning rate: a short training whose rate rises until the loss does; nothing is kept of it."""
    import zoo

    start = start_of(context)
    own = read_settings(settings or (), taken={*context.params, "model", "data"})
    source: dict[str, Any] = {
        "image": image,
        "split": split,
        "labels": target or None,
        "masks": mask or (),
        "strict": strict,
    }
    made, table = start.make(data, source, method=method, seed=seed)
    found = zoo.find_lr(
        made,
        table,
        method=method,
        steps=steps,
        lowest=lowest,
        highest=highest,
        batch_size=batch_size,
        weight_decay=weight_decay,
        optimizer=optimizer,
        optimizer_settings=read_settings(optimizer_settings or (), taken=(), option="--set-optimizer"),
        seed=seed,
        device=device,
        validation=validation,
        strict=strict,
        augmentation=read_augmentation(augmentation),
        freeze=freeze,
        freeze_norms=freeze_norms,
        **own,
    )
    if picture is not None:
        note(f"{found.plot(picture)} shows the loss over the rate.")
    if as_json:
        return say_json(found.as_json())
    if found.suggestion is None:
        return say("The loss fell at none of these rates; try others with --lowest and --highest, or more --steps.")
    return say(f"--lr {found.suggestion:.2g}, where the loss fell fastest. Next: zoo fit {shlex.quote(data)} …")
