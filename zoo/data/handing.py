"""From what a user hands over to the tensor that a model takes: paths, images and tensors become samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.data.samples import FileSample, PictureSample, Sample, TensorSample
from zoo.errors import DataError
from zoo.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SamplePreprocessor", "as_samples"]


@dataclass(frozen=True, slots=True)
class SamplePreprocessor:
    """From one sample to the tensor that a model takes.

    Args:
        recipe: The backbone's preprocessing.
    """

    recipe: Preprocessing

    def __call__(self, sample: Sample) -> Tensor:
        """Open and preprocess a sample, ``(C, H, W)``.

        Raises:
            DataError: If it cannot be read, or is not a picture.
            ShapeError: If it is a tensor that does not fit.
        """
        opened = sample.open()
        if isinstance(opened, str):
            raise DataError(f"{sample.name} is a text; the model takes pictures.")
        return self.recipe.apply(opened)


def as_samples(pictures: Any) -> tuple[list[Sample], bool]:
    """Wrap pictures as samples.

    Args:
        pictures: A path, a Pillow image, a ``(C, H, W)`` tensor or a sample; or a sequence of them, or a
            ``(B, C, H, W)`` tensor.

    Returns:
        The samples, and whether it was a single one.

    Raises:
        DataError: If something is neither a path, an image, a tensor nor a sample.
    """
    import torch

    single = isinstance(pictures, (str, Path, Sample)) or _is_image(pictures) or not isinstance(pictures, Iterable)
    single = single or (isinstance(pictures, torch.Tensor) and pictures.ndim == 3)
    return [_as_sample(picture) for picture in ([pictures] if single else pictures)], single


def _is_image(value: object) -> bool:
    from PIL import Image

    return isinstance(value, Image.Image)


def _as_sample(picture: Any) -> Sample:
    """Wrap a picture as a sample.

    Raises:
        DataError: If it is neither a path, an image, a tensor nor a sample.
    """
    if isinstance(picture, Sample):
        return picture
    if isinstance(picture, (str, Path)):
        return FileSample(Path(picture))
    import torch

    if isinstance(picture, torch.Tensor):
        return TensorSample("a tensor", picture)
    if _is_image(picture):
        return PictureSample(getattr(picture, "filename", "") or "an image", picture)
    raise DataError(f"A picture must be a path, a Pillow image or a tensor, got {type(picture).__name__}.")
