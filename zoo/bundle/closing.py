"""Giving back the space of files that are removed, in a thread: a file system may take its time for each of them.

A file that is open loses its name when it is removed, and its space when it is closed. So the folder is gone at once,
and whoever saves does not wait for the disk to clear up after what was replaced.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

__all__ = ["space_later", "wait_for_space"]

MOST = 64
"""Files and folders that are held open at the most; the space of others is given back when they are removed."""
_closing: list[threading.Thread] = []


@contextlib.contextmanager
def space_later(folder: Path) -> Iterator[None]:
    """Have the space of what is removed from a folder in the block, and of the folder, given back behind it."""
    opened: list[int] = []
    try:
        for place, _, files in os.walk(folder):
            for path in [place, *(os.path.join(place, name) for name in files)][: MOST - len(opened)]:
                with contextlib.suppress(OSError):
                    opened.append(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))
        yield
    finally:
        thread = threading.Thread(target=_close, args=(opened,), name="zoo-close", daemon=True)
        try:
            _closing.append(thread)
            thread.start()
        except RuntimeError:  # the interpreter is about to end, or has too many threads
            _closing.remove(thread)
            _close(opened)


def wait_for_space() -> None:
    """Wait until the space of all that this process removed is given back."""
    for thread in list(_closing):
        with contextlib.suppress(RuntimeError):  # another thread is just about to start it
            thread.join()
        with contextlib.suppress(ValueError):  # another thread waited for it, too
            _closing.remove(thread)


def _close(opened: list[int]) -> None:
    for fd in opened:
        with contextlib.suppress(BaseException):  # nothing was written through it, and the others must be closed, too
            os.close(fd)


os.register_at_fork(before=wait_for_space)  # a child would hold the files open as long as it lives
