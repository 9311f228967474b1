"""Downloading one file: streamed, hashed on the way, no longer than it may be, resumed where it broke off."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from zoo.bundle.manifest import FileEntry
from zoo.errors import BundleError
from zoo.remote import retrying
from zoo.remote.address import Address
from zoo.remote.retrying import Unreachable, may_pass, pause, told
from zoo.remote.shelf import Part, Shelf

__all__ = ["Open", "Stream", "download", "paced"]

CHUNK = 2**20
"""Bytes that are asked for at once."""

PROGRESS = 2**23
"""Bytes after which the attempts are counted anew, so that a long file survives a poor line."""


WINDOW, LEAST = 60.0, 2**16
"""Seconds in which so many bytes must come, or the connection counts as dead."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A remote file that is open.

    Args:
        begin: The byte at which it begins: what was asked for, or 0 where the place cannot begin elsewhere.
        read: Gives up to so many bytes; none at the end.
    """

    begin: int
    read: Callable[[int], bytes]


def paced(read: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """Watch that a stream does not come to a crawl.

    Args:
        read: Gives up to so many bytes.

    Returns:
        The same, which raises TimeoutError where too little comes in a minute.
    """
    since, got = time.monotonic(), 0

    def watched(most: int) -> bytes:
        nonlocal since, got
        data = read(most)
        got += len(data)
        now = time.monotonic()
        if now - since > WINDOW:
            if got < LEAST:
                raise TimeoutError
            since, got = now, 0
        return data

    return watched


Open = Callable[[int], AbstractContextManager[Stream]]
"""Opens a remote file at a byte."""


class _Cut(Exception):
    """The stream ended before the file did."""


class _Longer(Exception):
    """The stream went on after the file's end."""


def download(opens: Open, where: str, address: Address, entry: FileEntry, shelf: Shelf, *, fresh: bool) -> Path:
    """Download a file to the shelf.

    What breaks off is resumed, 5 attempts in a row that bring nothing at the most. What is whole and not what it must
    be is thrown away and downloaded anew, once, and once more if a part of it was from an earlier attempt.

    Args:
        opens: Opens the file.
        where: Its address, as it may be shown.
        address: The bundle's.
        entry: Its size and digest.
        shelf: Where it is put.
        fresh: Whether to read all of it now, whatever parts there are.

    Returns:
        The blob, of the right size and digest.

    Raises:
        Unreachable: If it cannot be read.
        BundleError: If it is not what was saved, or the cache folder cannot be written.
    """
    try:
        with shelf.part(entry, resume=not fresh) as part:
            _download(opens, where, address, entry, part)
            return shelf.keep(part, entry)
    except OSError as error:
        raise BundleError(f"{shelf.root} cannot be written: {error.strerror or error}.") from error


def _download(opens: Open, where: str, address: Address, entry: FileEntry, part: Part) -> None:
    spare = 2 if part.length else 1  # how often it may be thrown away
    failed, best = 0, part.length
    while True:
        fault = _fill(opens, entry, part)
        whole = part.length == entry.size and not isinstance(fault, _Longer)
        if whole and part.digest() == entry.blake3:
            return
        if whole or isinstance(fault, _Longer):
            part.restart()
            if spare == 0:
                wrong = "is not what was saved" if whole else f"must have {entry.size} bytes and has more"
                raise BundleError(f"{where} {wrong}: it is damaged, or is being replaced. Try again, or save it again.")
            spare, best = spare - 1, 0
            pause(1)
            continue
        assert fault is not None
        failed = 1 if part.length - best >= PROGRESS else failed + 1
        best = part.length if failed == 1 else max(best, part.length)
        if not may_pass(fault):
            raise Unreachable(f"{where} cannot be read: {told(fault, address)}.", passing=False)
        if failed == retrying.ATTEMPTS:
            reason = "it ends too early" if isinstance(fault, _Cut) else told(fault, address)
            got = f"{part.length} of {entry.size} bytes came"
            passing = not isinstance(fault, _Cut)  # it may be shorter now, where a newer bundle replaces this one
            raise Unreachable(f"{where} cannot be read: {reason}, {failed} times; {got}.", passing=passing)
        pause(failed)


def _fill(opens: Open, entry: FileEntry, part: Part) -> Exception | None:
    """Append to a part until it is as long as the file; give what went wrong at the other end.

    Raises:
        BundleError: If something is wrong at this end.
    """
    if part.length == entry.size and entry.size:
        return None
    try:
        with opens(part.length) as stream:
            if stream.begin != part.length:
                part.restart()
            while part.length < entry.size:
                data = stream.read(min(CHUNK, entry.size - part.length))
                if not data:
                    return _Cut()
                part.write(data)
            return _Longer() if stream.read(1) else None
    except BundleError:
        raise
    except Exception as error:
        return error
