"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["AsJson", "BatchSize", "Bundle", "BundleAt", "Device", "ImageColumn", "Name", "Strict"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures in one pass.")]
Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.", show_default=False)]
BundleAt = Annotated[str, typer.Argument(metavar="BUNDLE", help="Folder or URL of the bundle.", show_default=False)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")]
ImageColumn = Annotated[str | None, typer.Option("--image", metavar="COL", help="Column of the pictures.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A backbone, such as timm:mobilenetv3.", show_default=False)]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first unreadable picture.")]
