"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "AsJson",
    "Backbone",
    "BatchSize",
    "Bundle",
    "BundleAt",
    "Device",
    "Epochs",
    "Heads",
    "ImageColumn",
    "Inputs",
    "Masks",
    "MethodSettings",
    "Name",
    "Rate",
    "SavedModel",
    "Seed",
    "Share",
    "StreamNames",
    "Strict",
    "Targets",
    "Weights",
]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures in one pass.")]
Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.", show_default=False)]
BundleAt = Annotated[str, typer.Argument(metavar="BUNDLE", help="Folder or URL of the bundle.", show_default=False)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")]
ImageColumn = Annotated[str | None, typer.Option("--image", metavar="COL", help="Column of the pictures.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A backbone, such as timm:mobilenetv3.", show_default=False)]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first unreadable picture.")]

# of the commands that train a model, or look at how one would be trained
Backbone = Annotated[str | None, typer.Option(metavar="REF", help="Backbone, such as timm:mobilenetv3.")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the training rows.")]
Heads = Annotated[list[str] | None, typer.Option(metavar="SPEC", help="TYPE, NAME=TYPE or JSON. Repeatable.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="NAME", help="The input of all streams, or STREAM=NAME. Repeatable."),
]
Masks = Annotated[list[str] | None, typer.Option(metavar="COL", help="Column of masks, for segmentation. Repeatable.")]
MethodSettings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Setting of the method. Repeatable.")
]
Rate = Annotated[float, typer.Option(help="Highest learning rate of the heads.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of new weights, split, order and dropout.")]
SavedModel = Annotated[
    str | None,
    typer.Option("--model", metavar="BUNDLE", help="In place of a backbone: a saved model, with its heads."),
]
Share = Annotated[
    list[str] | None, typer.Option(metavar="NEW=STREAM", help="A stream on another's module. Repeatable.")
]
StreamNames = Annotated[
    list[str] | None, typer.Option(metavar="NAME=REF", help="A stream and its backbone. Repeatable.")
]
Targets = Annotated[list[str] | None, typer.Option(metavar="COL", help="Column to learn. Repeatable.")]
Weights = Annotated[str, typer.Option(help="pretrained, none, a safetensors file, or a bundle.")]
