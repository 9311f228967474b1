"""Preprocessing as data: how a picture becomes the tensor that a backbone was trained on.

A :class:`Preprocessing` is JSON, stands in the backbone's spec, travels in the bundle, and is applied by one function,
so that training, prediction and every later member of an ensemble see the very tensor that the library's own
transform gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from zoo.errors import ConfigError, DataError, ShapeError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["Preprocessing"]

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """The recipe from a picture to a normalised tensor.

    Args:
        size: Height and width that the backbone gets, in pixels.
        resize: What the picture is scaled to, in pixels: one number for its shorter side, two for height and width;
            None leaves it as it is.
        interpolation: The resampling filter.
        on: ``pil`` scales the picture with Pillow before it is a tensor, as timm and torchvision do; ``tensor`` scales
            the 8-bit tensor with antialiasing, as Hugging Face's image processors do.
        mean: Per-channel mean, on the scale of ``[0, 1]``.
        std: Per-channel standard deviation, on the scale of ``[0, 1]``.
        channels: 3 for RGB, 1 for grey; other numbers take tensors only.

    Shape:
        - returns of ``apply``: ``(channels, H, W)``, float32.
    """

    size: tuple[int, int]
    resize: tuple[int, ...] | None
    interpolation: Interpolation = "bicubic"
    on: Literal["pil", "tensor"] = "pil"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    channels: int = 3

    def __post_init__(self) -> None:
        """Check that the numbers go together."""
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ConfigError(
                f"Preprocessing: mean and std must have one value for each of the {self.channels} channels, "
                f"got {len(self.mean)} and {len(self.std)}."
            )
        if any(s <= 0 for s in self.std):
            raise ConfigError(f"Preprocessing: every std must be above 0, got {self.std}.")
        if min(self.size) < 1 or (self.resize is not None and (len(self.resize) not in (1, 2) or min(self.resize) < 1)):
            raise ConfigError(f"Preprocessing: sizes must be 1 or more pixels, got {self.size} and {self.resize}.")

    def apply(self, picture: Image.Image | Tensor) -> Tensor:
        """Turn one picture into the tensor that the backbone expects.

        Args:
            picture: A Pillow image of any mode, or a ready ``(channels, H, W)`` float tensor, which is only checked.

        Raises:
            ShapeError: If a tensor has the wrong rank, channels or dtype.
            DataError: If a picture cannot become an image of this many channels.
        """
        import torch

        if isinstance(picture, torch.Tensor):
            return self._check(picture)
        from torchvision.transforms.v2 import functional as F

        image = _to_mode(picture, self.channels)
        filter_ = _filter(self.interpolation, self.on)
        if self.on == "pil":
            if self.resize is not None:
                image = F.resize(image, list(self.resize), interpolation=filter_, antialias=True)
            # Divided, as timm and torchvision's presets do; to_dtype multiplies by 1/255, which rounds differently.
            pixels = F.pil_to_tensor(F.center_crop(image, list(self.size))).to(torch.float32) / 255
            return F.normalize(pixels, list(self.mean), list(self.std))
        pixels = F.pil_to_tensor(image)
        if self.resize is not None:
            pixels = F.resize(pixels, list(self.resize), interpolation=filter_, antialias=True)
        pixels = _crop_rounding_down(pixels, self.size).to(torch.float32)
        return F.normalize(pixels, [m * 255 for m in self.mean], [s * 255 for s in self.std])

    def _check(self, tensor: Tensor) -> Tensor:
        if tensor.ndim != 3 or tensor.shape[0] != self.channels or not tensor.is_floating_point():
            raise ShapeError(
                f"A picture given as a tensor must be ({self.channels}, height, width) of a float dtype, already "
                f"normalised, got {tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}."
            )
        return tensor


def _filter(interpolation: Interpolation, on: str) -> object:
    from torchvision.transforms.v2 import InterpolationMode

    if interpolation == "nearest" and on == "tensor":
        return InterpolationMode.NEAREST_EXACT
    return InterpolationMode(interpolation)


def _crop_rounding_down(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Crop the centre, padding first where the picture is smaller; odd margins are rounded down.

    torchvision's own ``center_crop`` rounds half margins to the even pixel, image processors do not.
    """
    from torchvision.transforms.v2 import functional as F

    short = [max(0, want - have) for want, have in zip(size, pixels.shape[-2:], strict=True)]
    if any(short):
        pixels = F.pad(pixels, [short[1] // 2, short[0] // 2, -(-short[1] // 2), -(-short[0] // 2)])
    top, left = ((have - want) // 2 for have, want in zip(pixels.shape[-2:], size, strict=True))
    return F.crop(pixels, top, left, *size)


def _to_mode(picture: Image.Image, channels: int) -> Image.Image:
    mode = {1: "L", 3: "RGB"}.get(channels)
    if mode is None:
        raise DataError(
            f"A picture file cannot become {channels} channels; give tensors of ({channels}, height, width)."
        )
    if picture.mode == mode:
        return picture
    if picture.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        picture = _eight_bits(picture)
    try:
        if picture.mode in ("P", "PA", "LA", "RGBA", "La", "RGBa"):
            picture = picture.convert("RGBA")  # resolves palettes with transparency the same way for every file
        return picture.convert(mode)
    except ValueError as error:
        raise DataError(f"A picture of mode {picture.mode} cannot become {mode}: {error}.") from error


def _eight_bits(picture: Image.Image) -> Image.Image:
    import numpy as np
    from PIL import Image

    levels = np.asarray(picture, dtype=np.int64)
    return Image.fromarray((levels.clip(0, 65535) >> 8).astype(np.uint8))
