"""Reading a bundle's folder: regular files only, relative to one open directory, each in one pass.

A save replaces the whole folder, so the directory that is opened once stays one generation to the end, whatever
happens to the path meanwhile; a reader that loses the race against the removal of the old one reads again.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self, TypeVar

from zoo.bundle.manifest import MOST_BYTES, EnsembleManifest, FileEntry, Manifest, read
from zoo.bundle.paths import MANIFEST
from zoo.bundle.publishing import recover
from zoo.errors import BundleError

__all__ = ["BundleFolder", "open_bundle"]

ATTEMPTS = 5
_CHUNK = 2**30
Result = TypeVar("Result")


def open_bundle(path: Path, use: Callable[[BundleFolder], Result]) -> Result:
    """Open a bundle and use it; again, up to 5 times, if someone replaced it meanwhile.

    Args:
        path: Its folder.
        use: Reads what is needed; it may be called more than once.

    Raises:
        BundleError: If the folder is no bundle, or what ``use`` raised.
    """
    recover(path)
    for attempt in range(ATTEMPTS):
        try:
            with BundleFolder(path) as folder:
                try:
                    return use(folder)
                except BundleError:
                    if attempt + 1 == ATTEMPTS or not folder.was_replaced():
                        raise
        except FileNotFoundError as error:
            if attempt + 1 == ATTEMPTS or not recover(path):
                raise BundleError(f"There is no bundle at {path}; give the folder that zoo.save wrote.") from error
        except OSError as error:
            raise BundleError(f"{path} cannot be read as a bundle: {error.strerror or error}.") from error
        time.sleep(0.01 * attempt)
    raise AssertionError("the last attempt returns or raises")


class BundleFolder:
    """An open bundle folder.

    Args:
        path: The folder.
        fd: The folder's descriptor where it is open already; it is closed with this.

    Raises:
        OSError: If it cannot be opened as a folder.
    """

    def __init__(self, path: Path, fd: int | None = None) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if fd is None else fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def was_replaced(self) -> bool:
        """Say whether the path now leads to another folder than the one that is open."""
        mine = os.fstat(self._fd)
        try:
            now = os.stat(self.path)
        except OSError:
            return True
        return (mine.st_dev, mine.st_ino) != (now.st_dev, now.st_ino)

    def inner(self, path: str) -> BundleFolder:
        """Open a bundle inside this one, of the same generation, following no link.

        Args:
            path: Its path, checked already.

        Raises:
            BundleError: If there is none.
        """
        try:
            return BundleFolder(self.path / path, self._open(path, os.O_DIRECTORY))
        except OSError as error:
            raise BundleError(f"{self.path}/{path} cannot be read as a bundle: {error.strerror}. {_AGAIN}") from error

    def manifest(self) -> tuple[Manifest | EnsembleManifest, str]:
        """Read the manifest.

        Returns:
            The manifest, and the bundle's id: sha256 of ``zoo.json``.

        Raises:
            BundleError: If it is missing, damaged, edited, or from a newer zoo.
        """
        try:
            data = self._read(MANIFEST, most=MOST_BYTES)
        except FileNotFoundError as error:
            raise BundleError(
                f"{self.path} is no bundle: it has no {MANIFEST}. Give the folder that zoo.save wrote."
            ) from error
        return read(data, f"{self.path}/{MANIFEST}"), hashlib.sha256(data).hexdigest()

    def read(self, path: str, entry: FileEntry) -> bytes:
        """Read a file in one pass, and compare it with what the manifest says of it.

        Args:
            path: Its path in the bundle, checked already.
            entry: Its size and digest.

        Raises:
            BundleError: If it is missing, no regular file, or not what was saved.
        """
        where = f"{self.path}/{path}"
        try:
            data = self._read(path, most=entry.size)
        except FileNotFoundError as error:
            raise BundleError(f"{where} is missing. Get the bundle again, or save the model again.") from error
        if len(data) != entry.size:
            raise BundleError(f"{where} must have {entry.size} bytes, got {len(data)}: it was cut. {_AGAIN}")
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise BundleError(f"{where} is not what was saved: it was edited or is damaged. {_AGAIN}")
        return data

    def _read(self, path: str, *, most: int) -> bytes:
        where = f"{self.path}/{path}"
        try:
            fd = self._open(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise BundleError(f"{where} must be a regular file, no link and no device: {error.strerror}.") from error
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise BundleError(f"{where} must be a regular file, no link and no device.")
            if found.st_size > most:
                raise BundleError(f"{where} must have {most} bytes at the most, got {found.st_size}. {_AGAIN}")
            return _all(fd, found.st_size)
        finally:
            os.close(fd)

    def _open(self, path: str, last: int = os.O_NONBLOCK) -> int:
        """Open a file, or a folder, step by step, following no link."""
        *folders, name = path.split("/")
        fd = os.dup(self._fd)
        for step, kind in (*((folder, os.O_DIRECTORY) for folder in folders), (name, last)):
            try:
                inner = os.open(step, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=fd)
            finally:
                os.close(fd)
            fd = inner
        return fd

    def listing(self) -> list[str]:
        """List everything in the folder that is no directory, sorted; links are not followed."""
        return sorted(_walk(self._fd, ""))


_AGAIN = "Get the bundle again, or save the model again."


def _all(fd: int, size: int) -> bytes:
    chunks: list[bytes] = []
    left, at = size, 0
    while left > 0 and (chunk := os.pread(fd, min(_CHUNK, left), at)):
        chunks.append(chunk)
        left, at = left - len(chunk), at + len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _walk(fd: int, prefix: str) -> Iterator[str]:
    with os.scandir(fd) as entries:
        found = list(entries)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            inner = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            try:
                yield from _walk(inner, f"{prefix}{entry.name}/")
            finally:
                os.close(inner)
        else:
            yield prefix + entry.name
