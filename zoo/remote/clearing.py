"""What was downloaded, piece by piece, and how it is removed without getting in the way of who downloads now.

Nothing here is locked, so what was used within the last hour counts as in use. A bundle was used when an address last
led to it. Its files are links to blobs; a blob goes when no bundle has it any more, and none at all while something is
being downloaded, since a bundle that is not whole yet may have been promised it.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zoo.bundle.publishing import new_name, remove
from zoo.remote.shelf import Shelf

__all__ = ["Piece", "pieces", "remove_piece"]

HOUR = 3600.0
_IDENTITY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Piece:
    """A bundle, a blob that no bundle has, or a part of one.

    Args:
        path: Its folder or file.
        bytes: What it takes.
        used: When it was last used, in seconds since 1970.
        busy: Whether it counts as in use.
    """

    path: Path
    bytes: int
    used: float
    busy: bool


def pieces(shelf: Shelf) -> list[Piece]:
    """Give all that was downloaded."""
    now, led = time.time(), _led_to(shelf)
    found = []
    for folder in _inside(shelf.root):
        if _IDENTITY.fullmatch(folder.name) and folder.is_dir():
            files = [state for _, state in _files(folder)]
            used = max([led.get(folder.name, 0.0), _changed(folder)])
            found.append(Piece(folder, sum(state.st_size for state in files), used, used > now - HOUR))
    parts = [Piece(path, s.st_size, s.st_mtime, s.st_mtime > now - HOUR) for path, s in _files(shelf.root / "parts")]
    coming = any(part.busy for part in parts)
    loose = [
        Piece(path, state.st_size, state.st_mtime, coming or state.st_mtime > now - HOUR)
        for path, state in _files(shelf.root / "blobs")
        if state.st_nlink == 1
    ]
    return [*found, *parts, *loose]


def remove_piece(shelf: Shelf, piece: Piece) -> bool:
    """Remove a piece, of a bundle also the blobs that no other one has, and what led to it.

    Returns:
        Whether it is gone; one that is in use stays.
    """
    if piece.busy:
        return False
    if not piece.path.is_dir():
        with contextlib.suppress(OSError):
            piece.path.unlink()
        return not piece.path.exists()
    own = {(state.st_dev, state.st_ino) for _, state in _files(piece.path)}
    doomed = new_name(piece.path, "tmp")
    try:
        os.rename(piece.path, doomed)  # nobody finds half of it
    except OSError:
        return False
    remove(doomed)
    for address in _inside(shelf.root / "seen"):
        with contextlib.suppress(OSError):
            if address.read_text(encoding="ascii") == piece.path.name:
                address.unlink()
    coming = any(state.st_mtime > time.time() - HOUR for _, state in _files(shelf.root / "parts"))
    for path, state in _files(shelf.root / "blobs"):
        if not coming and state.st_nlink == 1 and (state.st_dev, state.st_ino) in own:
            with contextlib.suppress(OSError):
                path.unlink()
    return True


def _led_to(shelf: Shelf) -> dict[str, float]:
    """Give, for each bundle, when an address last led to it."""
    led: dict[str, float] = {}
    for address in _inside(shelf.root / "seen"):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            identity = address.read_text(encoding="ascii")
            led[identity] = max(led.get(identity, 0.0), address.stat().st_mtime)
    return led


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Give the regular files below a folder with their states; links are not followed."""
    for place, _, names in os.walk(folder):
        for name in sorted(names):
            with contextlib.suppress(OSError):  # removed meanwhile
                state = os.lstat(path := Path(place, name))
                if stat.S_ISREG(state.st_mode):
                    yield path, state


def _changed(folder: Path) -> float:
    with contextlib.suppress(OSError):
        return folder.stat().st_mtime
    return 0.0
