"""What the user's cache folder holds, and how it is cleared: everything in it can be made or fetched again.

Only the folders that zoo itself makes are looked at, so a cache folder that holds other things loses none of them. What
is in use stays: features by their locks, downloads and single files by when they were last used.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.cache import cache_folder
from zoo.errors import ConfigError, UnknownName, nearest

__all__ = ["KINDS", "Cleared", "Entry", "clear_cache", "list_cache"]

HOUR, DAY = 3600.0, 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in the cache folder that is removed by itself.

    Args:
        kind: The folder that it is in, such as ``features``.
        path: Its file or folder.
        bytes: What it takes.
        used: When it was last used or written, in seconds since 1970.
        busy: Whether it is in use, as far as can be told.
        remove: Removes it; says whether it is gone.
    """

    kind: str
    path: Path
    bytes: int
    used: float
    busy: bool
    remove: Callable[[], bool]

    def as_json(self) -> dict[str, Any]:
        """Give it as JSON."""
        told = {"kind": self.kind, "path": str(self.path), "bytes": self.bytes, "used": self.used}
        return {**told, "busy": self.busy}


@dataclass(frozen=True, slots=True)
class Cleared:
    """What was removed, or would be.

    Args:
        removed: What is gone.
        kept: What was in use, and stays.
    """

    removed: tuple[Entry, ...]
    kept: tuple[Entry, ...]

    def as_json(self) -> dict[str, Any]:
        """Give it as JSON."""
        return {
            "bytes": sum(entry.bytes for entry in self.removed),
            "removed": [entry.as_json() for entry in self.removed],
            "kept": [entry.as_json() for entry in self.kept],
        }


def list_cache(kinds: Collection[str] = ()) -> list[Entry]:
    """List what is in the cache folder.

    Args:
        kinds: Which kinds, of :data:`KINDS`; all by default.

    Raises:
        UnknownName: If there is no such kind.
    """
    if unknown := sorted(set(kinds) - set(KINDS)):
        near = nearest(unknown[0], KINDS)
        raise UnknownName(
            f"The cache has no kind {unknown[0]!r}; there are {', '.join(KINDS)}."
            + (f" Did you mean {near[0]}?" if near else "")
        )
    return [entry for kind in KINDS if not kinds or kind in kinds for entry in _FINDS.get(kind, _single)(kind)]


def clear_cache(kinds: Collection[str] = (), *, older_than: float = 0.0, dry_run: bool = False) -> Cleared:
    """Remove what is in the cache folder, but for what is in use.

    Args:
        kinds: Which kinds, of :data:`KINDS`; all by default.
        older_than: Days for which it must not have been used, 0 or more.
        dry_run: Whether to tell only.

    Raises:
        UnknownName: If there is no such kind.
        ConfigError: If the days are no number of days.
    """
    if not 0 <= older_than < float("inf"):
        raise ConfigError(f"older_than must be a number of days, 0 or more, got {older_than!r}.")
    now = time.time()
    old = [entry for entry in list_cache(kinds) if now - entry.used >= older_than * DAY]
    gone = [entry for entry in old if not entry.busy and (dry_run or entry.remove())]
    return Cleared(tuple(gone), tuple(entry for entry in old if entry not in gone))


def _single(kind: str) -> Iterator[Entry]:
    """Give the files of a kind, each by itself: they are written at one instant, and read whole."""
    for place, _, names in os.walk(cache_folder(kind)):
        for name in sorted(names):
            with contextlib.suppress(OSError):  # removed meanwhile
                state = os.lstat(path := Path(place, name))
                if stat.S_ISREG(state.st_mode):
                    used = max(state.st_mtime, state.st_atime)
                    half = name.startswith(".") and time.time() - state.st_mtime < HOUR  # being written
                    yield Entry(kind, path, state.st_size, used, half, _bound(_unlink, path))


def _unlink(path: Path) -> bool:
    with contextlib.suppress(OSError):
        path.unlink()
    return not path.exists()


def _features(kind: str) -> Iterator[Entry]:
    """Give the stores of features; who reads or fills one holds its lock."""
    from zoo.training.features.evicting import in_use, last_used, size_of, take

    with contextlib.suppress(OSError):
        for folder in sorted(cache_folder(kind).iterdir()):
            if folder.is_dir() and not folder.is_symlink():
                remove = _bound(take, folder)
                yield Entry(kind, folder, size_of(folder), last_used(folder), in_use(folder), remove)


def _remote(kind: str) -> Iterator[Entry]:
    """Give the bundles that were downloaded, and what belongs to none."""
    from zoo.remote.clearing import pieces, remove_piece
    from zoo.remote.shelf import Shelf

    shelf = Shelf.of_user()
    for piece in pieces(shelf):
        yield Entry(kind, piece.path, piece.bytes, piece.used, piece.busy, _bound(remove_piece, shelf, piece))


def _bound(call: Callable[..., bool], *given: object) -> Callable[[], bool]:
    return lambda: call(*given)


KINDS = {
    "features": "what frozen stages gave for pictures",
    "remote": "bundles that were downloaded",
    "weights": "weights that were converted",
    "specs": "what was measured of architectures",
    "catalog": "what libraries offer",
    "verified": "digests of files that were read whole",
}
"""The folders that zoo makes in the cache folder, and what is in each."""

_FINDS: dict[str, Callable[[str], Iterator[Entry]]] = {"features": _features, "remote": _remote}
