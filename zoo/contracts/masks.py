"""Masks as labels: which pixel value means which class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.errors import DataError, ShapeError

__all__ = ["MISSING", "MaskCode"]

MISSING = -100
"""Target of a pixel without a label; the index that torch's losses ignore."""


@dataclass(frozen=True, slots=True)
class MaskCode:
    """From the pixel values of masks to classes; it pickles, so that it can go to loader workers.

    Args:
        who: Name of the head, for messages.
        classes: Names of the classes, in the order of the logits.
        values: The pixel value of each class, 0 or more.
        ignore: The pixel value that has no label; None if each must be a class.
    """

    who: str
    classes: tuple[str, ...]
    values: tuple[int, ...]
    ignore: int | None

    @property
    def fill(self) -> int:
        """What stands in a mask beyond the edge of its picture: the ignored value, or one that no file holds."""
        return MISSING if self.ignore is None else self.ignore

    def encode(self, pixels: Tensor) -> Tensor:
        """Turn pixel values into class indices, -100 where there is no label.

        Shape:
            - ``pixels``: ``(H, W)``, of an integer dtype.
            - returns: ``(H, W)``, int64.

        Raises:
            DataError: If a value is none of these; the message has it and those that are known.
            ShapeError: If it is no mask.
        """
        if pixels.ndim != 2 or pixels.is_floating_point():
            raise ShapeError(
                f"A mask must be (height, width) of an integer dtype, got {tuple(pixels.shape)} of "
                f"{str(pixels.dtype).removeprefix('torch.')}."
            )
        pixels = pixels.to(torch.int64)
        target = torch.full_like(pixels, MISSING)
        known = (pixels == MISSING) | (pixels == self.fill)
        for index, value in enumerate(self.values):
            here = pixels == value
            target[here] = index
            known |= here
        if not bool(known.all()):
            strange = int(pixels[~known][0])
            named = [f"{value} ({name})" for value, name in zip(self.values, self.classes, strict=True)]
            told = ", ".join([*named[:8], *(["…"] if len(named) > 8 else [])])
            ignored = "" if self.ignore is None else f", and {self.ignore} has no label"
            raise DataError(f"The head {self.who!r} knows no pixel value {strange}; its values are {told}{ignored}.")
        return target

    def decode(self, indices: Tensor) -> Tensor:
        """Turn class indices into pixel values; uint8 if all values fit into it, else int64."""
        values = torch.tensor(self.values, dtype=torch.uint8 if max(self.values) < 256 else torch.int64)
        return values[indices.cpu()]

    def encode_all(self, masks: Sequence[Tensor | None]) -> Tensor:
        """Turn masks of one size into targets; None is a target without any label.

        Shape:
            - returns: ``(len(masks), H, W)``, int64; ``(len(masks), 1, 1)`` if all are None.

        Raises:
            DataError: If a value is none of these.
            ShapeError: If they differ in size.
        """
        found = [None if mask is None else self.encode(mask) for mask in masks]
        sizes = sorted({tuple(one.shape) for one in found if one is not None})
        if len(sizes) > 1:
            raise ShapeError(f"The masks of one batch must have one size, got {sizes}.")
        size = sizes[0] if sizes else (1, 1)
        return torch.stack([torch.full(size, MISSING) if one is None else one for one in found])
