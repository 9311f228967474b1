"""Putting a finished folder in its place at one instant, and clearing up after those who died before they could.

``renameat2`` does it in one system call: ``RENAME_NOREPLACE`` for a new bundle, ``RENAME_EXCHANGE`` for one that
replaces another. Where the system or the file system lacks it, the old folder is first set aside; if the process dies
between the two renames, the next reader or writer puts it back (:func:`recover`).

Nothing is removed before the parent folder is synced: a power cut forgets renames that were not, and what it brings
back must be whole.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import hashlib
import math
import os
import platform
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from zoo.bundle.closing import space_later, wait_for_space
from zoo.errors import BundleError

__all__ = [
    "fsync_folder",
    "held",
    "here",
    "is_same",
    "lives",
    "new_name",
    "publish",
    "recover",
    "remove",
    "sweep",
    "withdraw",
]

NOREPLACE, EXCHANGE = 1, 2
_AT_FDCWD = -100
_HOUR = 3600.0
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
    if number == errno.EINTR:
        return rename2(source, target, flags)
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
        fsync_folder(target.parent)  # before the old one loses the name by which it would be found again
        os.rename(trash, staged)
    except BaseException:
        _put_back(staged, target, trash)
        raise
    _begun.pop(trash, None)


def _put_back(staged: Path, target: Path, trash: Path) -> None:
    """Undo the renames of which one failed."""
    if not os.path.lexists(trash):
        return
    if not os.path.lexists(staged):
        os.rename(target, staged)
    try:
        os.rename(trash, target)
    except OSError:
        if not os.path.lexists(target):
            raise
        _discard(target, [trash])  # another writer's bundle is there by now; it is newer than what we set aside


def withdraw(staged: Path, target: Path) -> None:
    """Undo :func:`publish`: bring back what was there before."""
    if not os.path.lexists(staged):
        os.rename(target, staged)
    elif not rename2(staged, target, EXCHANGE):
        trash = new_name(target, "trash")
        os.rename(staged, trash)
        with contextlib.suppress(OSError):
            fsync_folder(target.parent)
        os.rename(target, staged)
        os.rename(trash, target)
        _begun.pop(trash, None)


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


_begun: dict[Path, int] = {}
"""Hidden folders that this process named and did not remove yet, to the thread that did."""


@functools.cache
def here() -> str:
    """Give four hex digits for this machine since it was started and its room of process ids.

    A process id says something of a writer only where the writer ran in that room.
    """
    told = [platform.node()]
    with contextlib.suppress(OSError):
        told.append(os.readlink("/proc/self/ns/pid"))
        told.append(Path("/proc/sys/kernel/random/boot_id").read_text("ascii"))
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:4]


def new_name(target: Path, purpose: str) -> Path:
    """Name a hidden folder beside the target, by this process's id and where that id counts."""
    name = target.with_name(f".{target.name}.{purpose}-{os.getpid()}-{here()}{secrets.token_hex(2)}")
    _begun[name] = threading.get_ident()
    return name


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder, by which others see that its writer lives; the system drops it when we die."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks; the process id is told apart then
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        with contextlib.suppress(OSError):  # nothing was written through it
            os.close(fd)


def sweep(target: Path) -> None:
    """Remove the hidden folders beside a target whose writers died, or were interrupted in this thread.

    One of another machine, or from before this one was started, must be an hour old: where locks do nothing, its
    writer may live. What this process removed before has given back its space then.
    """
    wait_for_space()
    recover(target)
    left = [
        path
        for purpose in ("tmp", "trash")
        for path, pid, place in _beside(target, purpose)
        if _is_left(path, pid, place) and (place == here() or _changed(path) < time.time() - _HOUR)
    ]
    if left:
        _discard(target, left)


def _discard(target: Path, folders: list[Path]) -> None:
    """Remove hidden folders, none of which is ever taken for one that was set aside while it is half removed."""
    doomed = []
    try:
        fsync_folder(target.parent)  # what made them superfluous
        for path in folders:
            doomed.append(new_name(target, "tmp"))
            os.rename(path, doomed[-1])
            _begun.pop(path, None)
        fsync_folder(target.parent)
    except OSError:
        return
    for path in doomed:
        remove(path)


def recover(target: Path) -> bool:
    """Put the old bundle back if a writer died between setting it aside and putting the new one in its place.

    Returns:
        Whether a bundle is, or is about to be, at the target.
    """
    if os.path.lexists(target):
        return True
    left = [trash for trash, pid, place in _beside(target, "trash") if _is_left(trash, pid, place)]
    for trash in sorted(left, key=_changed, reverse=True):
        with contextlib.suppress(OSError):
            os.rename(trash, target)
            return True
    return any(True for _ in _beside(target, "trash")) or os.path.lexists(target)


def _beside(target: Path, purpose: str) -> Iterator[tuple[Path, int, str]]:
    """Give the hidden folders beside a target: path, process id, and where that id counts."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.{purpose}-(\d{{1,10}})-([0-9a-f]{{4}})[0-9a-f]{{4}}")
    try:
        names = os.listdir(target.parent)
    except OSError:
        return
    for name in names:
        if (found := pattern.fullmatch(name)) is not None:
            yield target.with_name(name), int(found[1]), found[2]


def _is_left(path: Path, pid: int, place: str) -> bool:
    """Say whether nobody is at work in a hidden folder any more, as far as that can be seen."""
    if place == here():
        if pid == os.getpid() and _begun.get(path) != threading.get_ident():
            return False
        if pid != os.getpid() and lives(pid):
            return False
    return not _is_held(path)


def lives(pid: int) -> bool:
    """Say whether a process of this machine is there, whoever's it is."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _is_held(folder: Path) -> bool:
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


def _changed(folder: Path) -> float:
    """Give when a folder was last renamed or changed, in seconds since 1970."""
    try:
        return os.lstat(folder).st_ctime
    except OSError:
        return math.inf


def remove(folder: Path) -> None:
    """Remove a hidden folder, as far as the system lets us; what stays is swept by a later save."""
    with _unread(folder), space_later(folder):
        for _ in range(3):
            with contextlib.suppress(OSError):  # some it raises all the same
                shutil.rmtree(folder, ignore_errors=True)
            if not os.path.lexists(folder):
                _begun.pop(folder, None)
                return


@contextlib.contextmanager
def _unread(folder: Path) -> Iterator[None]:
    """Wait, a second at the most, for readers that lost a race before and asked to be waited for."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        for _ in range(500):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.002)
            except OSError:
                break
            else:
                break
        yield
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)
