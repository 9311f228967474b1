"""Writing a bundle's folder: all of it beside the target, made to last, then put in its place at once."""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.bundle.hashing import hasher
from zoo.bundle.manifest import MOST_BYTES, FileEntry
from zoo.bundle.paths import MANIFEST, SIGNATURE
from zoo.bundle.plain_json import parse
from zoo.bundle.publishing import (
    fsync_folder,
    held,
    is_same,
    new_name,
    publish,
    remove,
    sweep,
    withdraw,
)
from zoo.bundle.syncing import Syncs, start_writing
from zoo.errors import BundleError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["StagedFolder", "check_target", "staged"]

BEGIN = 4 * 2**20
"""Bytes after which the disk is asked to begin with a file."""


class StagedFolder:
    """A folder that is being written; files get the permissions that the umask leaves.

    Args:
        path: The folder, empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._syncs = Syncs()

    def write(self, name: str, data: bytes | Iterable[memoryview]) -> FileEntry:
        """Write a file, and begin to make it last; what is written is hashed while it is in the processor's cache.

        Args:
            name: Its path in the bundle.
            data: Its content, or the pieces of it, each of which may be gone when the next is asked for.

        Returns:
            Its size and digest.
        """
        path = self.path / name
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            entry = _pour(fd, [memoryview(data)] if isinstance(data, bytes) else data)
        except BaseException:
            os.close(fd)
            raise
        self._syncs.begin(functools.partial(_sync, fd))
        return entry

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Map the tensors of a file that was written.

        Args:
            name: Its path in the bundle.

        Raises:
            OSError: If it cannot be read again.
        """
        from zoo.bundle.reading import map_or_read

        fd = os.open(self.path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return map_or_read(fd, os.fstat(fd).st_size, name)
        finally:
            os.close(fd)

    def settle(self) -> None:
        """Wait until all files and folders last.

        Raises:
            OSError: If one does not.
        """
        for folder, _, _ in os.walk(self.path):
            self._syncs.begin(functools.partial(fsync_folder, Path(folder)))
        self._syncs.finish()

    def drop(self) -> None:
        """Leave off; nothing waits for the disk any more when this returns."""
        self._syncs.drop()


def _pour(fd: int, data: Iterable[memoryview]) -> FileEntry:
    """Write the chunks of a file."""
    digest, size, begun = hasher(), 0, 0
    for chunk in data:
        digest.update(chunk)
        size += len(chunk)
        while chunk:
            chunk = chunk[os.write(fd, chunk) :]
        if size - begun >= BEGIN:
            start_writing(fd, begun, size - begun)
            begun = size
    return FileEntry(size=size, blake3=digest.hexdigest())


def _sync(fd: int) -> None:
    """Make a file last, and close it."""
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def staged(target: Path, *, overwrite: bool) -> Iterator[StagedFolder]:
    """Give a folder to write into; it takes the target's place at the end of the block.

    Whatever is raised in the block, or on the way, leaves what was there before, and nothing beside it.

    Args:
        target: Where the folder is to be.
        overwrite: Whether to replace a bundle that is there.

    Raises:
        BundleError: If the target exists and must not be replaced, or the system refuses to write.
    """
    made: list[Path] = []
    check_target(target, overwrite=overwrite)
    folder = new_name(target, "tmp")
    keep = False
    try:
        sweep(target)
        _make_parents(target.parent, made)
        folder.mkdir()
        with held(folder):
            writing = StagedFolder(folder)
            try:
                yield writing
                writing.settle()
            finally:
                writing.drop()
            check_target(target, overwrite=overwrite)
            try:
                _commit(folder, target, overwrite=overwrite)
            except BaseException:
                keep = True
                fsync_folder(target.parent)  # a power cut must not bring back what is removed next
                keep = False
                raise
        made.clear()
    except OSError as error:
        raise BundleError(f"{target} cannot be written: {error.strerror or error}. Nothing was changed.") from error
    finally:
        if not keep:
            remove(folder)
        for parent in reversed(made):
            with contextlib.suppress(OSError):
                parent.rmdir()


def _make_parents(parent: Path, made: list[Path]) -> None:
    for folder in reversed([parent, *parent.parents]):
        if not folder.exists():
            made.append(folder)
            folder.mkdir(exist_ok=True)
            fsync_folder(folder.parent)


def _commit(folder: Path, target: Path, *, overwrite: bool) -> None:
    found = os.lstat(folder)
    try:
        publish(folder, target, overwrite=overwrite)
        fsync_folder(target.parent)
    except BaseException:
        if is_same(target, (found.st_dev, found.st_ino)):
            withdraw(folder, target)
        raise


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse to replace anything but a bundle and its own files.

    Raises:
        BundleError: If something is at the target that must stay.
    """
    for _ in range(100):  # others may replace it while it is looked at
        try:
            kind = os.lstat(target).st_mode
            if not overwrite:
                raise BundleError(f"{target} exists; save with overwrite=True to replace a bundle.")
            refused = _refusal(target) if stat.S_ISDIR(kind) else _NO_BUNDLE
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise BundleError(f"{target} cannot be written: {error.strerror or error}. Nothing was changed.") from error
        if refused is None:
            return
        if refused:
            raise BundleError(f"{target} {refused}")
    raise BundleError(f"{target} is replaced by others all the time; save again.")


_NO_BUNDLE = "is no bundle, so it is not replaced; give another path or remove it yourself."


def _refusal(target: Path) -> str | None:
    """Say why a folder must not be replaced.

    Returns:
        The reason; None if there is none, empty if another folder took the path meanwhile.
    """
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        present = set(_present(fd, ""))
        strange = sorted(present - _listed(fd)) if present else []
        if strange and not is_same(target, (found.st_dev, found.st_ino)):
            return ""
    except FileNotFoundError:
        return ""
    finally:
        os.close(fd)
    if MANIFEST in strange:
        return _NO_BUNDLE
    if strange:
        return (
            f"holds files that are not the bundle's, such as {strange[0][:80]!r}; "
            "move them away, or save to another path."
        )
    return None


def _present(fd: int, prefix: str) -> Iterator[str]:
    """Give everything in a folder that is no folder."""
    with os.scandir(fd) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in found:
        if not is_folder:
            yield prefix + name
            continue
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            yield from _present(inner, f"{prefix}{name}/")
        finally:
            os.close(inner)


def _listed(fd: int) -> set[str]:
    """Give the files that belong to the bundle in a folder, whatever version wrote it."""
    try:
        inner = os.open(MANIFEST, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
    except OSError:
        return set()
    with os.fdopen(inner, "rb") as file:
        try:
            data = parse(file.read(MOST_BYTES + 1), MANIFEST, most=MOST_BYTES)
        except (OSError, BundleError):
            return set()
    if not isinstance(data, dict) or data.get("format") != "zoo.bundle" or not isinstance(data.get("files"), dict):
        return set()
    return {MANIFEST, SIGNATURE, *data["files"]}
