"""Masks: label columns whose cells are pictures, a class number a pixel; each is opened when it is asked for."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from zoo.data.columns import Column
from zoo.data.grid import encoded_sample
from zoo.data.pictures import UnreadableSample, turned
from zoo.data.samples import BytesSample, FileSample, Sample
from zoo.data.table import Skipped
from zoo.errors import DataError
from zoo.preprocessing import mask_pixels

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Masks", "mask_samples", "open_mask", "picture_size"]


def mask_samples(cells: Sequence[object], place: Callable[[int], str], folder: Path) -> list[Sample | Skipped | None]:
    """Make samples of a column of masks.

    Args:
        cells: Paths, encoded bytes, or mappings of both as Hugging Face stores pictures; None or an empty text where a
            row has no mask.
        place: Names a row for a person, given its number from 0.
        folder: What relative paths are relative to.

    Returns:
        A sample a row, None where there is no mask, and why where one cannot be used.
    """
    found: list[Sample | Skipped | None] = []
    for row, cell in enumerate(cells):
        if cell is None or cell == "":
            found.append(None)
            continue
        name = f"the mask of {place(row)}"
        try:
            sample = encoded_sample(cell, name, folder)
        except UnreadableSample as error:
            found.append(Skipped(name, error.reason))
            continue
        lost = isinstance(sample, FileSample) and not sample.path.exists()
        found.append(Skipped(sample.name, "no such file") if lost else sample)
    return found


def open_mask(sample: Sample) -> Tensor:
    """Open a mask.

    Shape:
        - returns: ``(H, W)``, int64.

    Raises:
        DataError: If it cannot be read, or is no mask; the message has its name.
    """
    opened = sample.open()
    if isinstance(opened, str):
        raise DataError(f"{sample.name} is a text, and a mask is a picture.")
    try:
        return mask_pixels(opened)
    except DataError as error:
        raise DataError(f"{sample.name}: {error}") from error


class Masks(Sequence["Tensor | None"]):
    """The masks of a column, ``(H, W)`` int64 each, opened when they are asked for; None where a row has none.

    Args:
        column: A column of kind "mask".
    """

    def __init__(self, column: Column) -> None:
        self._samples = column.values

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, row: int) -> Tensor | None: ...
    @overload
    def __getitem__(self, row: slice) -> list[Tensor | None]: ...
    def __getitem__(self, row: int | slice) -> Tensor | list[Tensor | None] | None:
        if isinstance(row, slice):
            return [self[one] for one in range(len(self))[row]]
        sample = self._samples[row]
        return open_mask(sample) if isinstance(sample, Sample) else None


def picture_size(sample: Sample) -> tuple[tuple[int, int], bool]:
    """Give the height and width of a picture, and whether it is a ready tensor; of a file only the header is read.

    Raises:
        UnreadableSample: If it cannot be read.
    """
    from PIL import Image

    if isinstance(sample, (FileSample, BytesSample)):
        try:
            data: Path | io.BytesIO = sample.path if isinstance(sample, FileSample) else io.BytesIO(sample.data)
            with Image.open(data) as picture:
                sides = picture.height, picture.width
                return (sides[1], sides[0]) if turned(picture) else sides, False
        except Exception:  # the full decoder says what is wrong, or knows better
            pass
    opened = sample.open()
    if isinstance(opened, Image.Image):
        return (opened.height, opened.width), False
    if isinstance(opened, str):
        raise DataError(f"{sample.name} is a text, and a mask needs a picture.")
    return (opened.shape[-2], opened.shape[-1]), True
