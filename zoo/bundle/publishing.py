"""Putting a finished folder in its place at one instant, and clearing up after those who died before they could.

``renameat2`` does it in one system call: ``RENAME_NOREPLACE`` for a new bundle, ``RENAME_EXCHANGE`` for one that
replaces another. Where the system or the file system lacks it, the old folder is first set aside; if the process dies
between the two renames, the next reader or writer puts it back (:func:`recover`).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from zoo.errors import BundleError

__all__ = ["fsync_folder", "is_same", "new_name", "publish", "recover", "remove", "sweep", "withdraw"]

NOREPLACE, EXCHANGE = 1, 2
_AT_FDCWD = -100
_LACKING = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})


def rename2(source: Path, target: Path, flags: int) -> bool:
    """Call ``renameat2``.

    Returns:
        Whether the system and the file system have it; if not, nothing was done.

    Raises:
        OSError: If it failed.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), ctypes.c_uint(flags)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _LACKING:
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))


def publish(staged: Path, target: Path, *, overwrite: bool) -> None:
    """Put a staged folder in its place; afterwards ``staged`` is gone, or holds what was there before.

    Args:
        staged: The finished folder, beside the target.
        target: The place.
        overwrite: Whether to replace what is there.

    Raises:
        BundleError: If something is there and ``overwrite`` is False.
        OSError: If the file system refuses.
    """
    for _ in range(100):  # others may put a bundle there, or take it away, between two calls
        try:
            if not (overwrite and os.path.lexists(target)):
                return _place(staged, target)
            return _replace(staged, target)
        except FileNotFoundError:
            if not staged.exists():
                raise
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            if not overwrite:
                raise BundleError(f"{target} exists; save with overwrite=True to replace a bundle.") from error
    raise BundleError(f"{target} is replaced by others all the time; save again.")


def _place(staged: Path, target: Path) -> None:
    if not rename2(staged, target, NOREPLACE):
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        os.rename(staged, target)  # a folder never replaces a file or a folder with something in it


def _replace(staged: Path, target: Path) -> None:
    if rename2(staged, target, EXCHANGE):
        return
    trash = new_name(target, "trash")
    try:
        os.rename(target, trash)
        os.rename(staged, target)
        os.rename(trash, staged)
    except BaseException:
        if os.path.lexists(trash):
            if os.path.lexists(target):
                os.rename(target, staged)
            os.rename(trash, target)
        raise


def withdraw(staged: Path, target: Path) -> None:
    """Undo :func:`publish`: bring back what was there before."""
    if not os.path.lexists(staged):
        os.rename(target, staged)
    elif not rename2(staged, target, EXCHANGE):
        away = new_name(target, "tmp")
        os.rename(target, away)
        os.rename(staged, target)
        os.rename(away, staged)


def is_same(path: Path, inode: tuple[int, int]) -> bool:
    """Say whether a path leads to the folder with this device and inode."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == inode


def fsync_folder(path: Path) -> None:
    """Make the entries of a folder last through a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# --- what the dead left behind


def new_name(target: Path, purpose: str) -> Path:
    """Name a hidden folder beside the target, with this process's id."""
    return target.with_name(f".{target.name}.{purpose}-{os.getpid()}-{secrets.token_hex(4)}")


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder, by which others see that its writer lives; the system drops it when we die."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks; the process id is told apart then
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def sweep(target: Path) -> None:
    """Remove the hidden folders that dead writers left beside a target."""
    recover(target)
    for purpose in ("tmp", "trash"):
        for left in _left_by_dead(target, purpose):
            remove(left)


def recover(target: Path) -> bool:
    """Put the old bundle back if a writer died between setting it aside and putting the new one in its place.

    Returns:
        Whether a bundle is, or is about to be, at the target.
    """
    if os.path.lexists(target):
        return True
    for trash in _left_by_dead(target, "trash"):
        with contextlib.suppress(OSError):
            os.rename(trash, target)
            return True
    return any(True for _ in _beside(target, "trash"))


def _left_by_dead(target: Path, purpose: str) -> list[Path]:
    return [path for path, pid in _beside(target, purpose) if not _lives(pid) and not _is_held(path)]


def _beside(target: Path, purpose: str) -> Iterator[tuple[Path, int]]:
    pattern = re.compile(rf"\.{re.escape(target.name)}\.{purpose}-(\d{{1,10}})-[0-9a-f]{{8}}")
    try:
        names = os.listdir(target.parent)
    except OSError:
        return
    for name in names:
        if (found := pattern.fullmatch(name)) is not None:
            yield target.with_name(name), int(found[1])


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _is_held(folder: Path) -> bool:
    """Say whether a writer holds the folder; a process of another container may live under an id unknown here."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def remove(folder: Path) -> None:
    """Remove a hidden folder, as far as the system lets us."""
    shutil.rmtree(folder, ignore_errors=True)
