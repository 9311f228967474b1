"""Writing a bundle's folder: all of it beside the target, made to last, then put in its place at once."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from zoo.bundle.manifest import MOST_BYTES, FileEntry
from zoo.bundle.paths import MANIFEST
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
from zoo.errors import BundleError

__all__ = ["StagedFolder", "check_target", "staged"]

_CHUNK = 2**24


class StagedFolder:
    """A folder that is being written; files get the permissions that the umask leaves.

    Args:
        path: The folder, empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, data: bytes) -> FileEntry:
        """Write a file and make it last.

        Args:
            name: Its path in the bundle.
            data: Its content.

        Returns:
            Its size and digest.
        """
        path = self.path / name
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view[:_CHUNK]) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        return FileEntry(size=len(data), sha256=hashlib.sha256(data).hexdigest())

    def settle(self) -> None:
        """Make the folders last, from the inside out."""
        for folder, _, _ in os.walk(self.path, topdown=False):
            fsync_folder(Path(folder))


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
    sweep(target)
    check_target(target, overwrite=overwrite)
    folder = new_name(target, "tmp")
    try:
        _make_parents(target.parent, made)
        folder.mkdir()
        with held(folder):
            yield (writing := StagedFolder(folder))
            writing.settle()
            check_target(target, overwrite=overwrite)
            _commit(folder, target, overwrite=overwrite)
        made.clear()
    except OSError as error:
        raise BundleError(f"{target} cannot be written: {error.strerror or error}. Nothing was changed.") from error
    finally:
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
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise BundleError(f"{target} exists; save with overwrite=True to replace a bundle.")
    if target.is_symlink() or not target.is_dir():
        raise BundleError(f"{target} is no bundle, so it is not replaced; give another path or remove it yourself.")
    present = [str((Path(folder) / name).relative_to(target)) for folder, _, names in os.walk(target) for name in names]
    strange = sorted(set(present) - _listed(target)) if present else []
    if MANIFEST in strange:
        raise BundleError(f"{target} is no bundle, so it is not replaced; give another path or remove it yourself.")
    if strange:
        raise BundleError(
            f"{target} holds files that are not the bundle's, such as {strange[0][:80]!r}; "
            "move them away, or save to another path."
        )


def _listed(target: Path) -> set[str]:
    """Give the files that belong to the bundle at a path, whatever version wrote it."""
    try:
        with (target / MANIFEST).open("rb") as file:
            data = parse(file.read(MOST_BYTES + 1), MANIFEST, most=MOST_BYTES)
    except (OSError, BundleError):
        return set()
    if not isinstance(data, dict) or data.get("format") != "zoo.bundle" or not isinstance(data.get("files"), dict):
        return set()
    return {MANIFEST, *data["files"]}
