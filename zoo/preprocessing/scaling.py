"""JPEGs decoded at a lower scale, where a piece of them is shrunk anyway."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.errors import DataError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["can_scale", "scaled_piece"]

_SCALES = (8, 4, 2)
"""What libjpeg can divide the sides by while it decodes."""


def can_scale(picture: Image.Image) -> bool:
    """Say whether a picture is a JPEG of which no pixel is decoded yet."""
    return getattr(picture, "format", None) == "JPEG" and bool(getattr(picture, "tile", None))


def scaled_piece(
    jpeg: Image.Image, area: tuple[int, int, int, int], size: tuple[int, int], interpolation: str
) -> Image.Image | Tensor:
    """Cut a piece out of a JPEG and scale it, decoded at the lowest scale that is still no smaller than the result.

    Where the whole scale is needed, it is the piece that cutting and scaling the decoded picture gives, to within two
    levels of 255 for the filters bilinear and bicubic; where a lower one is enough, its edges are those of whole pixels
    of the lower scale.

    Args:
        jpeg: A JPEG for which :func:`can_scale` is true; it is used up.
        area: Left, top, width and height of the piece, in pixels of the whole picture.
        size: Height and width of the result, in pixels.
        interpolation: The resampling filter.

    Returns:
        The piece; with the filters bilinear and bicubic, and of 1 or 3 channels, ``(C, H, W)`` uint8.

    Raises:
        DataError: If it cannot be decoded.

    Source:
        Scaling in the frequency domain is libjpeg's, by ``PIL.Image.Image.draft``.
    """
    from PIL import Image

    left, top, width, height = area
    wide, high = jpeg.size
    by = next((by for by in _SCALES if width >= by * size[1] and height >= by * size[0]), 1)
    try:
        if by > 1:
            jpeg.draft(jpeg.mode, (wide // by, high // by))
        jpeg.load()
    except Exception as error:  # what a decoder raises on foreign bytes is its answer, whatever the type
        raise DataError(f"The picture cannot be decoded ({type(error).__name__}: {error}).") from error
    across, down = jpeg.width / wide, jpeg.height / high
    right, bottom = round((left + width) * across), round((top + height) * down)
    piece = jpeg.crop((round(left * across), round(top * down), min(right, jpeg.width), min(bottom, jpeg.height)))
    if interpolation in _VECTORISED and piece.mode in ("L", "RGB"):
        return _resized(piece, size, interpolation)
    return piece.resize((size[1], size[0]), Image.Resampling[interpolation.upper()])


_VECTORISED = ("bilinear", "bicubic")
"""The filters that torch has on 8-bit pixels; on x86 they take a fraction of Pillow's time."""


def _resized(piece: Image.Image, size: tuple[int, int], interpolation: str) -> Tensor:
    """Scale as Pillow does, to within two levels of 255."""
    import numpy as np
    import torch

    pixels = torch.from_numpy(np.array(piece))
    pixels = pixels[None, None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)[None]
    return torch.nn.functional.interpolate(pixels, size=size, mode=interpolation, antialias=True)[0]
