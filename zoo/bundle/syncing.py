"""Making files and folders last, several at once: a journal commits together what is asked of it at the same time.

One ``fsync`` after another waits for one commit each. Asked for side by side, those of all files and folders of a
bundle wait for one or two, and the disk takes up a large file while what follows it is still being made.
"""

from __future__ import annotations

import _thread
import ctypes
import functools
from collections.abc import Callable
from typing import Any

__all__ = ["Syncs", "start_writing"]

MOST = 8
"""Calls that wait for the disk at a time."""
_WRITE = 2
"""``SYNC_FILE_RANGE_WRITE``."""


def start_writing(fd: int, start: int, size: int) -> None:
    """Ask the system to begin with a part of a file that will be synced; where it cannot be asked, nothing is done.

    Nothing waits and nothing lasts by it: the later ``fsync`` finds less to do.

    Args:
        fd: The file.
        start: Where the part begins, in bytes.
        size: Its size in bytes.
    """
    call = _starter()
    if call is not None:
        call(fd, ctypes.c_int64(start), ctypes.c_int64(size), ctypes.c_uint(_WRITE))


@functools.cache
def _starter() -> Any:
    return getattr(ctypes.CDLL(None), "sync_file_range", None)


class Syncs:
    """Calls that wait for the disk, each in a thread of its own."""

    def __init__(self) -> None:
        self._running: list[_Call] = []
        self._error: BaseException | None = None

    def begin(self, call: Callable[[], object]) -> None:
        """Let a call wait for the disk; here and now where the system gives no more threads.

        Args:
            call: What waits. What it raises, :meth:`finish` raises.
        """
        self._running = [one for one in self._running if not self._is_done(one)]
        if len(self._running) >= MOST:
            self._join(self._running.pop(0))
        one = _Call(call)
        try:
            one.start()
        except RuntimeError:  # the interpreter is about to end, or has too many threads
            one.run()
            self._keep(one.error)
        else:
            self._running.append(one)

    def finish(self) -> None:
        """Wait for all calls.

        Raises:
            OSError: The first that one of them raised, or whatever else it was.
        """
        self.drop()
        if self._error is not None:
            raise self._error

    def drop(self) -> None:
        """Wait for all calls, whatever becomes of them."""
        while self._running:
            self._join(self._running[-1])
            self._running.pop()

    def _is_done(self, one: _Call) -> bool:
        if not one.is_done():
            return False
        self._keep(one.error)
        return True

    def _join(self, one: _Call) -> None:
        one.join()
        self._keep(one.error)

    def _keep(self, error: BaseException | None) -> None:
        self._error = self._error or error


class _Call:
    """A call in a thread, and what it raised; ``threading`` would wait for each thread to begin."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._running = _thread.allocate_lock()
        self.error: BaseException | None = None

    def start(self) -> None:
        self._running.acquire()
        _thread.start_new_thread(self._run, ())

    def run(self) -> None:
        try:
            self._call()
        except BaseException as error:
            self.error = error

    def _run(self) -> None:
        try:
            self.run()
        finally:
            self._running.release()

    def is_done(self) -> bool:
        return not self._running.locked()

    def join(self) -> None:
        with self._running:
            pass
