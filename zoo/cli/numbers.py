"""Numbers as people type and read them."""

from __future__ import annotations

import math
import re

from zoo.errors import ConfigError

__all__ = ["count", "millions", "pixels", "size"]

_COUNT = re.compile(r"(\d+(?:[._]\d+)*(?:e\+?\d+)?)\s*([kmgb]?)", re.IGNORECASE)
_PIXELS = re.compile(r"([1-9][0-9]{0,5})(?:[x×]([1-9][0-9]{0,5}))?")
_FACTORS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}


def count(option: str, text: str) -> float:
    """Read a count such as ``5M``, ``300k`` or ``1.5e6``.

    Args:
        option: Where it was typed.
        text: What was typed; ``k`` is a thousand, ``M`` a million, ``G`` or ``B`` a thousand millions.

    Raises:
        ConfigError: If it is none.

    Example:
        >>> count("--max-params", "5M"), count("--max-params", "1.5e6")
        (5000000.0, 1500000.0)
    """
    match = _COUNT.fullmatch(text.strip())
    try:
        value = float(match[1]) * _FACTORS[match[2].lower()] if match else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{option} must be a number such as 5M, 300k or 1.5e6, got {text!r}.")
    return value


def millions(number: int | None) -> str | None:
    """Write a count in millions, three digits of it.

    Example:
        >>> millions(25_557_032), millions(199_856)
        ('25.6', '0.2')
    """
    if number is None:
        return None
    return f"{number / 1e6:.2f}" if 0 < number < 1e5 else f"{number / 1e6:.1f}"


def pixels(option: str, text: str) -> tuple[int, int]:
    """Read a picture size: one number for a square, or height and width.

    Args:
        option: Where it was typed.
        text: What was typed, in pixels.

    Raises:
        ConfigError: If it is none.

    Example:
        >>> pixels("--size", "224"), pixels("--size", "256x128")
        ((224, 224), (256, 128))
    """
    match = _PIXELS.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{option} must be pixels such as 224 or 256x128, got {text!r}.")
    return int(match[1]), int(match[2] or match[1])


def size(pixels: tuple[int, int] | None) -> str | None:
    """Write height and width, once if they are equal.

    Example:
        >>> size((224, 224)), size((256, 128))
        ('224', '256x128')
    """
    if pixels is None:
        return None
    return str(pixels[0]) if pixels[0] == pixels[1] else f"{pixels[0]}x{pixels[1]}"
