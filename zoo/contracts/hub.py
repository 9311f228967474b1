"""Manners towards the model hub that providers share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any

__all__ = ["no_hub", "quiet_hub"]

_closed: ContextVar[bool] = ContextVar("zoo_hub_closed", default=False)
_lock = Lock()
_inside = 0
_before: Any = None
"""The client's own function that says whether it is offline, from before the first of several threads came in."""


@contextmanager
def no_hub() -> Iterator[None]:
    """Let the hub's client answer as if offline, for what this thread does inside; other threads go on as they were.

    A library may look for a name of its config on the hub, and a config may come from a stranger's bundle.
    """
    global _inside, _before
    from huggingface_hub import constants

    with _lock:
        _inside += 1
        if _inside == 1:
            _before = constants.is_offline_mode
            before = _before
            constants.is_offline_mode = lambda: _closed.get() or before()
    token = _closed.set(True)
    try:
        yield
    finally:
        _closed.reset(token)
        with _lock:
            _inside -= 1
            if _inside == 0:
                constants.is_offline_mode = _before


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Keep the hub client's line about every retry back; what it raises in the end says all."""
    told = logging.getLogger("huggingface_hub")
    level = told.level
    told.setLevel(logging.ERROR)
    try:
        yield
    finally:
        told.setLevel(level)
