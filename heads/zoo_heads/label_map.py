"""What a segmentation predicts: a class for each pixel, told in few words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["LabelMap", "run_lengths"]


@dataclass(frozen=True, slots=True, eq=False)
class LabelMap:
    """A class for each pixel of a prepared picture.

    Args:
        mask: The pixel values, as mask files have them.
        classes: Class to its pixel value, in the order of the classes.

    Shape:
        - ``mask``: ``(H, W)``, uint8 if all values fit into it, else int64; on the CPU.
    """

    mask: Tensor
    classes: dict[str, int]

    @property
    def pixels(self) -> dict[str, int]:
        """Class to the number of its pixels."""
        return {name: int((self.mask == value).sum()) for name, value in self.classes.items()}

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values.

        Returns:
            ``size``, height and width in pixels; ``pixels`` and ``shares`` by class; and under ``masks``, for each
            class that occurs, its mask in COCO's uncompressed run-length encoding: ``size`` and ``counts``.
        """
        size, pixels = list(self.mask.shape), self.pixels
        masks = {
            name: {"size": size, "counts": run_lengths(self.mask == value)}
            for name, value in self.classes.items()
            if pixels[name]
        }
        shares = {name: count / self.mask.numel() for name, count in pixels.items()}
        return {"size": size, "pixels": pixels, "shares": shares, "masks": masks}


def run_lengths(mask: Tensor) -> list[int]:
    """Write a mask as the lengths of its runs, column by column: first of False (which may be 0), then of True, and on.

    Shape:
        - ``mask``: ``(H, W)``, bool.

    Example:
        >>> run_lengths(torch.tensor([[False, True], [True, True]]))
        [1, 3]
    """
    flat = torch.cat([torch.tensor([False]), mask.cpu().T.reshape(-1)])
    changes = (flat[1:] != flat[:-1]).nonzero().flatten()
    edges = torch.cat([torch.tensor([0]), changes, torch.tensor([len(flat) - 1])])
    lengths: list[int] = edges.diff().tolist()
    return lengths
