"""Targets of heads that learn masks: opened row by row, moved as the picture of their row is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.augmentation import Views
from zoo.contracts.masks import MISSING, MaskCode
from zoo.data import Sample, open_mask, picture_size
from zoo.errors import DataError
from zoo.preprocessing import Preprocessing

__all__ = ["MaskTargets", "Targets", "stacked_targets"]


@dataclass(frozen=True, slots=True)
class MaskTargets:
    """The masks of some rows; nothing is held but where they are.

    It pickles and holds no weights, so that it can go to loader workers.

    Args:
        code: What the pixel values mean.
        recipe: What is done to the pictures.
        key: What a model calls the pictures among its inputs.
        pictures: The picture of each row; None where it has none.
        masks: Its mask; None where it has none.

    Shape:
        - of a row: ``(H, W)`` int64, class indices, -100 where there is no label, as high and wide as its prepared
          picture; ``(1, 1)`` for a row without a mask.
    """

    code: MaskCode
    recipe: Preprocessing
    key: str
    pictures: tuple[Sample | None, ...]
    masks: tuple[Sample | None, ...]

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, row: int) -> Tensor:
        return self._target(row, lambda pixels: self.recipe.apply_mask(pixels, fill=self.code.fill))

    def view(self, row: int, views: Views, seed: int) -> Tensor:
        """Give the target of a training view that a seed decides."""
        return self._target(row, lambda pixels: views.mask(pixels, seed, fill=self.code.fill))

    def check(self) -> None:
        """Open every mask once.

        Raises:
            DataError: If one cannot be read, has a pixel value that no class has, or another size than its picture.
        """
        with ThreadPoolExecutor(max_workers=4) as pool:
            for _ in pool.map(self._check, range(len(self))):
                pass

    def _check(self, row: int) -> None:
        mask, picture = self.masks[row], self.pictures[row]
        if mask is None:
            return
        pixels = open_mask(mask)
        _named(mask, self.code.encode, pixels)
        if picture is None:
            return
        (height, width), _ = picture_size(picture)
        if tuple(pixels.shape) != (height, width):
            raise DataError(
                f"{mask.name} must have the size of its picture {picture.name}, {height}×{width} pixels, got "
                f"{pixels.shape[0]}×{pixels.shape[1]}; scale it to the nearest pixel."
            )

    def _target(self, row: int, place: Callable[[Tensor], Tensor]) -> Tensor:
        mask, picture = self.masks[row], self.pictures[row]
        if mask is None:
            return torch.full((1, 1), MISSING)
        pixels = open_mask(mask)
        ready = picture is not None and picture_size(picture)[1]
        return _named(mask, self.code.encode, pixels if ready else place(pixels))


Targets = Tensor | MaskTargets
"""The targets of a task, one a row."""


def stacked_targets(targets: Sequence[Tensor]) -> Tensor:
    """Make a batch of targets; one without any label, ``(1, 1)``, takes the size of the others."""
    sizes = {tuple(one.shape) for one in targets}
    if len(sizes) == 2 and (1, 1) in sizes:
        size = next(size for size in sizes if size != (1, 1))
        targets = [one.expand(size) if tuple(one.shape) == (1, 1) else one for one in targets]
    return torch.stack(list(targets))


def _named(mask: Sample, encode: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
    """Encode a mask; an error has its name."""
    try:
        return encode(pixels)
    except DataError as error:
        raise DataError(f"{mask.name}: {error}") from error
