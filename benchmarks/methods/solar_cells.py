"""What the scripts here share: 2,624 photographs of solar cells, models for pictures of a size, and cells of a table.

The photographs come with the PyPI package elpv-dataset (Buerhop-Lutz et al. 2018): cells of monocrystalline and
polycrystalline modules by electroluminescence, each with the chance that it is defect.
"""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import zoo
from zoo.assembly import assemble, plan_model
from zoo.data import Column, PictureSample, Table

__all__ = ["CLASSES", "HEAD", "cells", "lines", "sized", "told"]

CLASSES = ["no", "yes"]
"""Whether a cell is defect: by a chance of a half or more."""
HEAD: dict[str, Any] = {"type": "classifier", "name": "defect", "classes": CLASSES, "class_weights": "balanced"}
"""The head of most scripts."""


def lines() -> Iterator[tuple[Path, str, str]]:
    """Give each photograph's file, whether it is defect (see :data:`CLASSES`), and its kind, ``mono`` or ``poly``."""
    package = importlib.util.find_spec("elpv_dataset")
    if package is None or package.origin is None:
        raise SystemExit("The photographs come with: pip install 'headzoo[demo]'")
    folder = Path(package.origin).parent / "data"
    for line in (folder / "labels.csv").read_text().splitlines():
        name, chance, kind = line.split()
        yield folder / name, CLASSES[float(chance) >= 0.5], kind


def cells(size: int, rows: int | None = None) -> Table:
    """Read the photographs into memory at a size: a test split of a fifth, the same for all, and training rows.

    Args:
        size: Height and width in pixels.
        rows: How many of the training rows are drawn; None for all.
    """
    pictures, defect = [], []
    for path, known, _ in lines():
        with Image.open(path) as opened:
            scaled = opened.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        pictures.append(PictureSample(f"{path.parent.name}/{path.name}", scaled))
        defect.append(known)
    table = Table("solar cells", {"image": tuple(pictures)}, {"defect": Column("defect", "text", tuple(defect))})
    parts = zoo.split_table(table, fractions={"train": 0.8, "test": 0.2}, seed=0, stratify=["defect"])
    tested = {sample.name for sample in parts["test"].samples("image")}
    split = ["test" if picture.name in tested else "train" for picture in pictures]
    drawn = torch.randperm(len(split), generator=torch.Generator().manual_seed(0)).tolist()
    train = [row for row in drawn if split[row] == "train"][:rows]
    return table.with_split(split).select(sorted([*train, *(n for n, part in enumerate(split) if part == "test")]))


def sized(
    reference: str, heads: Sequence[Mapping[str, Any]], size: int, *, weights: str | None, seed: int
) -> zoo.Model:
    """Build a model for pictures of a size; the whole picture is scaled to it, and nothing is cropped."""
    spec = plan_model(reference, heads)
    stream = spec.streams["main"]
    assert stream.backbone.preprocessing is not None
    recipe = replace(stream.backbone.preprocessing, size=(size, size), resize=(size,))
    backbone = replace(stream.backbone, preprocessing=recipe, weights=weights)
    return assemble(replace(spec, streams={"main": replace(stream, backbone=backbone)}), weights=weights, seed=seed)


def told(values: Sequence[float], digits: int = 1) -> str:
    """Write the mean and the deviation of several seeds, of percentages or the like."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ({spread:.{digits}f})"
