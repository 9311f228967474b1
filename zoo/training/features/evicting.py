"""The bound on what the frozen features take: the folders that were not used for longest go first.

Each store is a folder, with a file ``<folder>.lock`` beside it. Whoever uses the store holds a shared lock on that file
and touches it, so its time says when the store was last used, and a lock that cannot be had alone says that it is in
use. Where the file system has no locks, a store that was used within the last day is left alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import time
import weakref
from collections.abc import Collection, Iterator
from pathlib import Path

from zoo.errors import ConfigError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Held", "cache_limit", "hold", "in_use", "last_used", "make_room", "size_of", "take"]

log = logging.getLogger("zoo")

LIMIT = "ZOO_CACHE_LIMIT"
DEFAULT = "20GB"
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
DAY = 24 * 3600.0


def cache_limit() -> int:
    """Give the most bytes that all stores of features may take together: ``$ZOO_CACHE_LIMIT``, 20 GB if it is not set.

    Raises:
        ConfigError: If it is no number of bytes, such as ``500MB`` or ``20GB``.
    """
    text = os.environ.get(LIMIT) or DEFAULT
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B?)\s*", text.upper())
    if found is None or found[2] not in UNITS:
        raise ConfigError(f"{LIMIT} must be a number of bytes such as 500MB or 20GB, got {text!r}.")
    return int(float(found[1]) * UNITS[found[2]])


class Held:
    """A store in use, for as long as this lives.

    Args:
        lock: The open lock file.
    """

    def __init__(self, lock: int) -> None:
        weakref.finalize(self, os.close, lock)


def hold(folder: Path) -> Held | None:
    """Mark a store as used now, and as in use for as long as what is given back lives.

    Returns:
        None where the folder cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(_lock_of(folder), os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        return None
    held = Held(lock)
    with contextlib.suppress(OSError):
        os.utime(_lock_of(folder))
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return held


def make_room(root: Path, keep: Collection[Path], *, limit: int) -> None:
    """Remove stores that nobody uses, those not used for longest first, until all of them together fit.

    Args:
        root: The folder of all stores.
        keep: Stores that stay.
        limit: Most bytes of all of them, 0 or more.
    """
    try:
        stores = sorted((last_used(folder), folder) for folder in root.iterdir() if folder.is_dir())
    except OSError:
        return
    sizes = {folder: size_of(folder) for _, folder in stores}
    total = sum(sizes.values())
    for _, folder in stores:
        if total <= limit:
            return
        if folder not in keep and take(folder):
            total -= sizes[folder]
            log.info("Removed the frozen features %s, which were not used for longest (%s).", folder.name, LIMIT)


def take(folder: Path) -> bool:
    """Remove a store if nobody uses it; say whether that was so."""
    with _alone(folder) as free:
        if free:
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                _lock_of(folder).unlink()
        return free


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Say whether nobody else uses a store; it stays so meanwhile."""
    if fcntl is None:
        yield time.time() - last_used(folder) > DAY
        return
    try:
        with _lock_of(folder).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
    except BlockingIOError:
        yield False
    except OSError:
        yield time.time() - last_used(folder) > DAY


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def in_use(folder: Path) -> bool:
    """Say whether somebody uses a store now."""
    if not _lock_of(folder).exists():
        return False
    with _alone(folder) as free:
        return not free


def last_used(folder: Path) -> float:
    """Say when a store was last used, in seconds since 1970."""
    for path in (_lock_of(folder), folder):
        with contextlib.suppress(OSError):
            return path.stat().st_mtime
    return 0.0


def size_of(folder: Path) -> int:
    """Give the bytes of a store."""
    total = 0
    for path in folder.glob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total
