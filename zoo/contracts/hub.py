"""Manners towards the model hub that providers share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet_hub"]


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
