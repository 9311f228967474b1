"""The three parts of a data set and what people call them."""

from __future__ import annotations

__all__ = ["SPLITS", "split_name"]

SPLITS = ("train", "validation", "test")

_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


def split_name(text: object) -> str | None:
    """Give the part of a data set that a name means.

    Args:
        text: A folder's name, a cell, or a key; case and outer blanks do not matter.

    Returns:
        "train", "validation" or "test"; None if the name means no part.

    Example:
        >>> split_name("Val"), split_name("cats")
        ('validation', None)
    """
    return _NAMES.get(text.strip().casefold()) if isinstance(text, str) else None
