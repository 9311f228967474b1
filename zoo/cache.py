"""Where zoo keeps what it can make again: catalogs, converted weights, frozen features."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder(*parts: str) -> Path:
    """Name a folder in the user's cache; it is not created.

    The root is ``$ZOO_CACHE`` if set, else ``$XDG_CACHE_HOME/zoo``, else ``~/.cache/zoo``. Everything below it can be
    deleted at any time.

    Args:
        parts: Names of the folders below the root.
    """
    root = os.environ.get("ZOO_CACHE")
    if root is None:
        root = str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zoo")
    return Path(root, *parts)
