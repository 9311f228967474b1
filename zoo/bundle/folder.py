"""Reading a bundle's folder: regular files only, relative to one open directory, each in one pass.

A save replaces the whole folder, so the directory that is opened once stays one generation to the end, whatever
happens to the path meanwhile; a reader that loses the race against the removal of the old one reads again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from zoo.bundle.hashing import digest_of
from zoo.bundle.manifest import MOST_BYTES, EnsembleManifest, FileEntry, Manifest, read
from zoo.bundle.paths import MANIFEST, MOST_PATH
from zoo.bundle.publishing import recover
from zoo.bundle.remembering import recall, remember
from zoo.errors import BundleError

__all__ = ["BundleFolder", "OpenFile", "open_bundle"]

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
                if attempt:
                    folder.ask_to_wait()
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
        self._manifest: tuple[Manifest | EnsembleManifest, str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def ask_to_wait(self) -> None:
        """Ask whoever replaces the folder not to remove it for a while; where that cannot be asked, nothing is done."""
        with contextlib.suppress(OSError):
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

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
        """Read the manifest, once: it is that of the generation that is open.

        Returns:
            The manifest, and the bundle's id: BLAKE3 of ``zoo.json``.

        Raises:
            BundleError: If it is missing, damaged, edited, or from a newer zoo.
        """
        if self._manifest is None:
            try:
                data = self._read(MANIFEST, most=MOST_BYTES)
            except FileNotFoundError as error:
                raise BundleError(
                    f"{self.path} is no bundle: it has no {MANIFEST}. Give the folder that zoo.save wrote."
                ) from error
            self._manifest = read(data, f"{self.path}/{MANIFEST}"), digest_of(data)
        return self._manifest

    def read(self, path: str, entry: FileEntry) -> bytes:
        """Read a file in one pass, and compare it with what the manifest says of it.

        Args:
            path: Its path in the bundle, checked already.
            entry: Its size and digest.

        Raises:
            BundleError: If it is missing, no regular file, or not what was saved.
        """
        with self.file(path, entry) as opened:
            data = _all(opened.fd, entry.size)
            opened.check(digest_of(data) if len(data) == entry.size else "")
            return data

    @contextlib.contextmanager
    def file(self, path: str, entry: FileEntry) -> Iterator[OpenFile]:
        """Open a file that has the size that the manifest says.

        Args:
            path: Its path in the bundle, checked already.
            entry: Its size and digest.

        Raises:
            BundleError: If it is missing, no regular file, or of another size.
        """
        where = f"{self.path}/{path}"
        try:
            fd = self._regular(path)
        except FileNotFoundError as error:
            raise BundleError(f"{where} is missing. {_AGAIN}") from error
        try:
            found = os.fstat(fd)
            if found.st_size != entry.size:
                raise BundleError(
                    f"{where} must have {entry.size} bytes, got {found.st_size}: it was cut or grew. {_AGAIN}"
                )
            yield OpenFile(fd, where, entry, found)
        finally:
            os.close(fd)

    def _read(self, path: str, *, most: int) -> bytes:
        fd = self._regular(path)
        try:
            size = os.fstat(fd).st_size
            if size > most:
                raise BundleError(f"{self.path}/{path} must have {most} bytes at the most, got {size}. {_AGAIN}")
            return _all(fd, size)
        finally:
            os.close(fd)

    def _regular(self, path: str) -> int:
        where = f"{self.path}/{path}"
        try:
            fd = self._open(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise BundleError(f"{where} must be a regular file, no link and no device: {error.strerror}.") from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise BundleError(f"{where} must be a regular file, no link and no device.")
        return fd

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
        """List everything in the folder that is no directory, sorted; links are not followed.

        A directory whose path is too long for a bundle's file is listed itself, with a ``/`` at its end.
        """
        return sorted(_walk(self._fd, ""))


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file of a bundle that is open for reading.

    Args:
        fd: Its descriptor.
        where: Its path, for messages.
        entry: What the manifest says of it.
        found: Its state when it was opened.
    """

    fd: int
    where: str
    entry: FileEntry
    found: os.stat_result

    def check(self, blake3: str) -> None:
        """Compare the digest of the bytes that were read with the manifest's.

        Raises:
            BundleError: If it is another.
        """
        if blake3 != self.entry.blake3:
            raise BundleError(f"{self.where} is not what was saved: it was edited or is damaged. {_AGAIN}")

    def is_known(self) -> bool:
        """Say whether it was read and found well before, and is unchanged since."""
        return recall(self.found) == self.entry.blake3

    def settle(self, blake3: str) -> None:
        """Compare as :meth:`check` does, and remember that it is well."""
        self.check(blake3)
        if _times(os.fstat(self.fd)) == _times(self.found):
            remember(self.found, blake3)


def _times(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


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
        if entry.is_dir(follow_symlinks=False) and len(prefix) + len(entry.name) > MOST_PATH:
            yield f"{prefix}{entry.name}/"  # nothing in it can be a bundle's, however deep it goes
        elif entry.is_dir(follow_symlinks=False):
            inner = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            try:
                yield from _walk(inner, f"{prefix}{entry.name}/")
            finally:
                os.close(inner)
        else:
            yield prefix + entry.name
