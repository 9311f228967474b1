"""Ctrl-C in a run that keeps checkpoints: the step is finished, a checkpoint written, and only then the run ends."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from zoo.training.ranks import world_size

__all__ = ["Interrupted", "Interrupts"]

log = logging.getLogger("zoo")


class Interrupted(KeyboardInterrupt):
    """Raised when a run ends by Ctrl-C; its message says what was kept, and how to go on.

    Args:
        told: When it ended, and what was kept.
    """

    def __init__(self, told: str) -> None:
        super().__init__(f"{told} Go on with the same call and resume=True.")
        self.told = told


class Interrupts:
    """Whether the user asked the run to end."""

    def __init__(self) -> None:
        self.heard_here = False
        """Whether this process was asked."""
        self.asked = False
        """Whether the run is to end; of several processes, once all of them know."""
        self._alone = world_size() == 1

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Take the first Ctrl-C as a wish and the second as it is; a program with a way of its own keeps that.

        Python gives signals to the main thread only, so a run in another thread hears none.
        """
        ours = threading.current_thread() is threading.main_thread()
        if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._hear)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.heard_here = True
        self.asked = self._alone
        signal.signal(signal.SIGINT, signal.default_int_handler)
        log.warning("Finishing this step and writing a checkpoint; Ctrl-C once more stops at once.")
