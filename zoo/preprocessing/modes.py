"""From a picture of any mode to 8-bit RGB or grey, by one decision for each mode.

====================  ============================================================================================
mode                  what it becomes
====================  ============================================================================================
RGB, L, 1             what ``Image.convert`` makes of it; a bit is 0 or 255
P                     the palette's colours
CMYK, YCbCr, HSV,     what ``Image.convert`` makes of it; no colour profile is applied
LAB
RGBA, LA, PA, and P   the colours with the transparency dropped, as ``convert("RGB")`` does (timm, torchvision), or
with transparency     laid over white, as transformers' ``do_convert_rgb`` does: the recipe's ``alpha`` says which
RGBa, La              the same, after the multiplication by alpha is undone
I;16 and kin, I       the high byte of 16 bits, as Pillow itself reads 16-bit colour; ``convert("RGB")`` would clip
                      all above 255 to white
F                     what ``Image.convert`` makes of it: clipped to 0 … 255
====================  ============================================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.errors import DataError, ShapeError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["mask_pixels", "to_mode"]

_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_MODES = {1: "L", 3: "RGB"}


def to_mode(picture: Image.Image, channels: int, *, alpha: str = "drop") -> Image.Image:
    """Bring a picture to 8 bits of one or three channels; it is not altered itself.

    Args:
        picture: A picture of any mode.
        channels: 3 for RGB, 1 for grey.
        alpha: ``drop`` keeps the colours below a transparency, ``white`` lays them over white.

    Raises:
        DataError: If it cannot become a picture of this many channels.
    """
    mode = _MODES.get(channels)
    if mode is None:
        raise DataError(
            f"A picture file cannot become {channels} channels; give tensors of ({channels}, height, width)."
        )
    try:
        if picture.mode in _DEEP:
            picture = _high_byte(picture)
        elif _has_alpha(picture):
            picture = _opaque(picture, over_white=alpha == "white")
        return picture if picture.mode == mode else picture.convert(mode)
    except ValueError as error:
        raise DataError(f"A picture of mode {picture.mode} cannot become {mode}: {error}.") from error


def mask_pixels(mask: Image.Image | Tensor) -> Tensor:
    """Give the number of each pixel of a mask.

    Args:
        mask: A picture of one number a pixel (grey of any depth, bits, or a palette, whose indices count and not its
            colours), or a tensor.

    Shape:
        - ``mask``: ``(H, W)`` of an integer dtype, if it is a tensor.
        - returns: ``(H, W)``, int64.

    Raises:
        DataError: If a picture's pixels are not one whole number each.
        ShapeError: If a tensor has another rank or dtype.
    """
    import numpy as np
    import torch

    if isinstance(mask, torch.Tensor):
        if mask.ndim != 2 or mask.is_floating_point() or mask.is_complex():
            raise ShapeError(
                f"A mask given as a tensor must be (height, width) of an integer dtype, got {tuple(mask.shape)} of "
                f"{str(mask.dtype).removeprefix('torch.')}."
            )
        return mask.long()
    if mask.mode not in ("1", "L", "P", *_DEEP):
        raise DataError(
            f"A mask must be a grey or palette picture whose pixel values are class numbers, got mode {mask.mode}."
        )
    return torch.from_numpy(np.asarray(mask).astype(np.int64))


def _has_alpha(picture: Image.Image) -> bool:
    return picture.mode in _ALPHA or picture.info.get("transparency") is not None


def _opaque(picture: Image.Image, *, over_white: bool) -> Image.Image:
    from PIL import Image

    if picture.mode == "La":
        picture = picture.convert("LA")
    picture = picture.convert("RGBA")  # resolves palettes with transparency the same way for every file
    if over_white:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (255, 255, 255, 255)), picture)
    return picture.convert("RGB")


def _high_byte(picture: Image.Image) -> Image.Image:
    import numpy as np
    from PIL import Image

    levels = np.asarray(picture, dtype=np.int64)
    return Image.fromarray((levels.clip(0, 65535) >> 8).astype(np.uint8))
