"""Encoded bytes to an upright picture, or one short phrase that says why not."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from zoo.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["FORMATS", "SUFFIXES", "UnreadableSample", "decode", "glance", "turned", "unreadable", "upright"]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""The endings that make a file in a folder a picture, in lower case."""

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""The formats that are decoded, whatever a file calls itself. EPS is not among them: it would start an interpreter."""

_ORIENTATION = 0x0112  # the EXIF tag


class UnreadableSample(DataError):
    """Raised when one picture, text or tensor of a data set cannot be opened.

    Args:
        message: The whole sentence.
        reason: The short phrase in it, as `Table.skipped` lists it.
    """

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


def unreadable(name: str, cause: str | BaseException) -> UnreadableSample:
    """Say in one sentence that a sample cannot be opened, and why.

    Args:
        name: The path or row, as a person reads it.
        cause: The reason, or the exception that opening the sample raised.

    Returns:
        The error to raise.

    Example:
        >>> str(unreadable("cat.jpg", FileNotFoundError()))
        "'cat.jpg' cannot be read: no such file."
    """
    reason = cause if isinstance(cause, str) else _reason(cause)
    return UnreadableSample(f"{name!r} cannot be read: {reason}.", reason=reason)


def decode(data: bytes, name: str) -> Image.Image:
    """Decode one picture fully and turn it upright; its mode stays as it is.

    Args:
        data: The bytes of an encoded picture.
        name: What to call it in an error.

    Returns:
        The picture; of an animation, the first frame.

    Raises:
        UnreadableSample: If the bytes are empty, cut, of another format, or more pixels than Pillow's limit.
    """
    try:
        return upright(_opened(data, name))
    except UnreadableSample:
        raise
    except Exception as error:  # what a decoder raises on foreign bytes is its answer, whatever the type
        raise unreadable(name, error) from error


def glance(data: bytes, name: str) -> Image.Image:
    """Open one picture for a view of it: an upright JPEG is not decoded yet, so that it can be at a lower scale.

    Args:
        data: The bytes of an encoded picture.
        name: What to call it in an error.

    Raises:
        UnreadableSample: As :func:`decode` does; of a JPEG whose head is whole, not before it is decoded.
    """
    try:
        picture = _opened(data, name)
        if picture.format == "JPEG" and picture.getexif().get(_ORIENTATION, 1) == 1:
            return picture
    except UnreadableSample:
        raise
    except Exception:  # whatever is the matter, decoding has the words for it
        return decode(data, name)
    return decode(data, name)


def _opened(data: bytes, name: str) -> Image.Image:
    """Read the head of a picture, and none of its pixels."""
    from PIL import Image

    if not data:
        raise unreadable(name, "empty file")
    Image.init()
    picture = Image.open(io.BytesIO(data), formats=[form for form in FORMATS if form in Image.OPEN])
    # Pillow only warns up to twice its limit, and a warning is no answer in a worker thread.
    if Image.MAX_IMAGE_PIXELS and picture.width * picture.height > Image.MAX_IMAGE_PIXELS:
        raise unreadable(name, _too_large())
    return picture


def turned(picture: Image.Image) -> bool:
    """Say whether a picture's EXIF orientation exchanges its height and width."""
    try:
        return picture.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception:  # a broken EXIF block turns nothing
        return False


def upright(picture: Image.Image) -> Image.Image:
    """Load a picture's pixels and apply its EXIF orientation.

    Args:
        picture: Any picture; it is not altered.

    Returns:
        The picture itself if it is upright already, else a turned copy.
    """
    from PIL import ImageOps

    picture.load()
    try:
        if picture.getexif().get(_ORIENTATION, 1) == 1:
            return picture
        return ImageOps.exif_transpose(picture)
    except Exception:  # a broken EXIF block says nothing against the pixels
        return picture


def _reason(error: BaseException) -> str:
    from PIL import Image, UnidentifiedImageError

    known: tuple[tuple[type[BaseException], str], ...] = (
        (UnidentifiedImageError, "not a picture"),
        (Image.DecompressionBombError, _too_large()),
        (Image.DecompressionBombWarning, _too_large()),
        (FileNotFoundError, "no such file"),
        (NotADirectoryError, "no such file"),
        (IsADirectoryError, "a folder, not a file"),
        (PermissionError, "permission denied"),
    )
    for kind, phrase in known:
        if isinstance(error, kind):
            return phrase
    if isinstance(error, UnreadableSample):
        return error.reason
    said = " ".join(str(error).split())
    if "truncated" in said.casefold():
        return "truncated file"
    return f"cannot be decoded ({type(error).__name__}{': ' if said else ''}{said[:120].rstrip('.')})"


def _too_large() -> str:
    from PIL import Image

    return f"more pixels than the limit of {Image.MAX_IMAGE_PIXELS or 0:,} (PIL.Image.MAX_IMAGE_PIXELS)"
