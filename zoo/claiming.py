"""One folder, one process: what goes on where it stopped must not go on twice at once."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from zoo.errors import BundleError

__all__ = ["claimed"]


@contextlib.contextmanager
def claimed(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder for as long as the block runs; the system lets it go when we die.

    A file system without locks lets all in.

    Args:
        folder: The folder; made where it is not there.
        what: What runs in it, for the message: ``chain``.

    Raises:
        BundleError: If it is held already, by another process or by this one, or cannot be made or opened.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise BundleError(f"{folder} cannot be a folder: {error.strerror or error}; give another one.") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise BundleError(
                    f"Another {what} runs in {folder}; wait for its end, or give another folder."
                ) from error
        yield
    finally:
        os.close(fd)
