"""Silence for transformers while zoo builds with it; what matters is said by zoo's own errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from transformers.utils import logging

__all__ = ["quiet"]


_lock = Lock()
_inside = 0
_before: tuple[int, Any] = (0, None)
"""Level and hook of the log before the first of several threads came in."""


@contextmanager
def quiet() -> Iterator[None]:
    """Mute transformers' log lines and its bars inside, and put both back when the last thread leaves.

    The hub's download bars stay.
    """
    global _inside, _before
    with _lock:
        _inside += 1
        if _inside == 1:
            _before = logging.get_verbosity(), logging.set_tqdm_hook(_disabled)
            logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                logging.set_verbosity(_before[0])
                logging.set_tqdm_hook(_before[1])


def _disabled(make: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return make(*args, **{**kwargs, "disable": True})
