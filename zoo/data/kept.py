"""Rows that are kept in a model from one run to the next: samples as tensors and text, and labels by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from zoo.data.columns import Column
from zoo.data.samples import PictureSample, Sample, TensorSample, TextSample
from zoo.data.table import Table
from zoo.errors import DataError
from zoo.preprocessing import to_mode

__all__ = ["keep_rows", "with_kept"]

_MODES = ("L", "RGB", "RGBA")
"""Modes of Pillow's pictures that are kept as they are; others are kept as RGB, or RGBA with a transparency."""


def keep_rows(table: Table, rows: Sequence[int], columns: Mapping[str, str]) -> dict[str, Any]:
    """Copy rows into a tree of tensors and JSON, such as ``model.state`` holds.

    Args:
        table: The rows.
        rows: Numbers of those that are copied, in this order.
        columns: Task name to label column.

    Returns:
        ``names``; ``inputs``, for each input one sample a row: None, a text, ``(C, H, W)`` floats, or ``picture`` and
        ``(H, W)`` or ``(H, W, C)`` bytes; ``labels``, for each task one raw label a row.

    Raises:
        DataError: If a sample cannot be opened, or a label is a mask.
    """
    inputs = {name: [_kept(samples[row]) for row in rows] for name, samples in table.inputs.items()}
    labels = {task: [table.column(column).values[row] for row in rows] for task, column in columns.items()}
    for task, values in labels.items():
        if any(isinstance(value, Sample) for value in values):
            raise DataError(f"{table.source}: the labels of {task!r} are masks, which a model does not keep.")
    first = next(iter(table.inputs.values()))
    return {"names": [_name(first[row], row) for row in rows], "inputs": inputs, "labels": labels}


def with_kept(table: Table, kept: Mapping[str, Any], columns: Mapping[str, str]) -> Table:
    """Add rows that :func:`keep_rows` copied behind those of a table.

    Args:
        table: The rows; the only input of both may be called as it likes.
        kept: The copied rows.
        columns: Task name to label column of ``table``; a task that the kept rows do not know has no label in them.

    Raises:
        DataError: If they have other inputs, or are not as :func:`keep_rows` writes them.
    """
    try:
        names, held, labels = kept["names"], kept["inputs"], kept["labels"]
        if len(table.inputs) == len(held) == 1:
            held = {next(iter(table.inputs)): next(iter(held.values()))}
        if held.keys() != table.inputs.keys():
            raise DataError(f"{table.source} has the inputs {', '.join(table.inputs)}, kept rows {', '.join(held)}.")
        inputs = {name: (*table.inputs[name], *_samples(names, held[name])) for name in table.inputs}
        found = {}
        for name, column in table.columns.items():
            task = next((task for task, of in columns.items() if of == name and task in labels), None)
            found[name] = Column(column.name, column.kind, (*column.values, *(labels[task] if task else _none(names))))
        split = None if table.split is None else (*table.split, *("train" for _ in names))
        return replace(table, inputs=inputs, columns=found, split=split)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"Rows that are kept in a model are damaged: {type(error).__name__}: {error}.") from error


def _none(names: Sequence[str]) -> tuple[None, ...]:
    return (None,) * len(names)


def _name(sample: Sample | None, row: int) -> str:
    return f"kept: {row if sample is None else sample.name.removeprefix('kept: ')}"


def _kept(sample: Sample | None) -> Any:
    opened: Any = None if sample is None else sample.open()
    if isinstance(opened, Image.Image):
        return {"picture": torch.from_numpy(np.array(_whole(opened), dtype=np.uint8))}
    return opened.clone() if isinstance(opened, torch.Tensor) else opened


def _whole(picture: Image.Image) -> Image.Image:
    if picture.mode in ("LA", "PA") or "transparency" in picture.info:
        return picture.convert("RGBA")
    return picture if picture.mode in _MODES else to_mode(picture, 3)


def _samples(names: Sequence[str], held: Sequence[Any]) -> list[Sample | None]:
    return [_sample(name, one) for name, one in zip(names, held, strict=True)]


def _sample(name: str, held: Any) -> Sample | None:
    if held is None:
        return None
    if isinstance(held, str):
        return TextSample(name, held)
    if isinstance(held, torch.Tensor):
        return TensorSample(name, held)
    pixels = held["picture"]
    if pixels.dtype != torch.uint8 or pixels.ndim not in (2, 3):
        raise ValueError(f"a picture is {pixels.dtype} of shape {tuple(pixels.shape)}")
    return PictureSample(name, Image.fromarray(pixels.numpy()))
