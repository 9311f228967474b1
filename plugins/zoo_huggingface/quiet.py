"""Silence for transformers while zoo builds with it; what matters is said by zoo's own errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging

__all__ = ["quiet"]


@contextmanager
def quiet() -> Iterator[None]:
    """Mute transformers' log lines and its bars inside, and put both back; the hub's download bars stay."""
    level, hook = logging.get_verbosity(), logging.set_tqdm_hook(_disabled)
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.set_tqdm_hook(hook)


def _disabled(make: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return make(*args, **{**kwargs, "disable": True})
