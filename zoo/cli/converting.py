"""``zoo upgrade``, ``zoo convert`` and ``zoo export``: bundles from and for elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from zoo.cli.options import AsJson, Bundle, BundleAt
from zoo.cli.output import say, say_json, speaks

__all__ = ["convert", "export", "upgrade"]

CONVERT_EXAMPLES = (
    "zoo convert resnet50.pth --backbone timm:resnet50 --classes names.txt --out my-model\n\n"
    "zoo convert vit.safetensors --backbone hf:./vit-config --backbone-only --out my-backbone"
)
EXPORT_EXAMPLES = (
    "zoo export my-model --layout timm --out my-timm-folder\n\n"
    "zoo export my-model --layout transformers --out my-transformers-folder\n\n"
    "zoo export my-model --layout onnx --out my-onnx-folder"
)
UPGRADE_EXAMPLES = "zoo upgrade my-model\n\nzoo upgrade my-model --out my-model-now"


@speaks
def upgrade(
    bundle: Bundle,
    out: Annotated[
        Path | None, typer.Option(metavar="BUNDLE", help="Write the new bundle here instead of replacing the old one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rewrite a bundle in the present format, under the present versions, once it is verified."""
    import zoo

    found = zoo.upgrade(bundle, out=out)
    if as_json:
        return say_json(found.as_json())
    if found.current:
        return say(f"{bundle}: already current")
    for name, (old, new) in found.changed.items():
        say(f"{name}: {old} → {new}")
    return say(f"{found.path}: upgraded, id {found.id}")


@speaks
def convert(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="File of torch.save, or safetensors.", show_default=False)
    ],
    backbone: Annotated[str, typer.Option(metavar="REF", help="Its architecture, such as timm:resnet50.")],
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="Folder of the new bundle.")],
    head: Annotated[
        str, typer.Option(metavar="HEAD", help="The classifier: TYPE, NAME=TYPE, or JSON with type and settings.")
    ] = "label=classifier",
    classes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Names of its classes: one a line, or a JSON list.")
    ] = None,
    backbone_only: Annotated[bool, typer.Option("--backbone-only", help="Leave its classifier out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Turn a checkpoint of a library's own model into a bundle; a pickle is read in a process of its own."""
    import zoo
    from zoo.cli.arguments import read_head

    found = zoo.convert(
        checkpoint,
        out,
        backbone=backbone,
        head=read_head(head),
        classes=classes,
        backbone_only=backbone_only,
        overwrite=overwrite,
    )
    if as_json:
        return say_json(found.as_json())
    taken = f"{found.backbone} tensors of the backbone" + (f", under {found.prefix!r}" if found.prefix else "")
    say(f"taken: {taken}")
    if found.classifier is not None:
        say(f"taken: the classifier {found.classifier} for {len(found.classes)} classes")
    for name in found.left_out:
        say(f"left out: {name}")
    return say(f"{found.path}: converted")


@speaks
def export(
    bundle: BundleAt,
    layout: Annotated[Literal["timm", "transformers", "onnx"], typer.Option(help="The library that is to load it.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The new folder; nothing must be there.")],
    as_json: AsJson = False,
) -> None:
    """Write a classifier as the flat folder that its own library loads, or any heads on pictures as an ONNX file."""
    import zoo

    found = zoo.export(bundle, out, layout=layout)
    if as_json:
        return say_json(found.as_json())
    for name in found.left_out:
        say(f"left out: {name}, which {layout} has no place for")
    return say(f"{found.path}: {', '.join(found.files)}")
