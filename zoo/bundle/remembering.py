"""Which files were read and found to be what they should be, so that the next load need not hash them again.

A digest is kept with the file's device, inode, size and the times at which its bytes and its inode last changed, and
holds while all of them are the same; no program can set the last of these back. A file that changed within the last
seconds is not remembered, since a further change might bear the same time. ``zoo.verify`` never asks here.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from pathlib import Path

from zoo.cache import cache_folder

__all__ = ["recall", "remember"]

_SETTLED = 2_000_000_000
"""Nanoseconds for which a file must have been left alone; file systems tell times in steps of up to two seconds."""


def recall(found: os.stat_result) -> str | None:
    """Give the blake3 of a file from when it was last read whole; None if that is not known, or it changed since."""
    try:
        kept = json.loads(_place(found).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(kept, dict) or kept.get("stamp") != _stamp(found):
        return None
    blake3 = kept.get("blake3")
    return blake3 if isinstance(blake3, str) else None


def remember(found: os.stat_result, blake3: str) -> None:
    """Keep the blake3 of a file.

    Args:
        found: Its state before it was read; it must have been the same afterwards.
        blake3: Hex digest of all its bytes.
    """
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < _SETTLED:
        return
    place = _place(found)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f".{place.name}.{os.getpid()}-{secrets.token_hex(4)}")
        temporary.write_text(json.dumps({"stamp": _stamp(found), "blake3": blake3}), encoding="ascii")
        temporary.replace(place)


def _stamp(found: os.stat_result) -> list[int]:
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _place(found: os.stat_result) -> Path:
    return cache_folder("verified", f"{found.st_dev:x}", f"{found.st_ino:x}.json")
