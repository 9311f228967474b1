"""A safetensors file on its way to the disk, a chunk at a time: no second copy of a model is ever in memory.

A chunk is copied once, into room that stays in the processor's cache, and is hashed and written from there. So the
digests are of what is written, whatever another thread does to the tensors meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from zoo.bundle.digest import Record
from zoo.bundle.hashing import hasher
from zoo.bundle.tensors import dense, flat_bytes, layout

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Stream"]

CHUNK = 2**20
"""Bytes of a chunk."""


class Stream:
    """The bytes of a safetensors file, each read once from its tensor.

    Args:
        tensors: Name to tensor, of any layout in memory and on any device.

    Attributes:
        records: The record of each tensor whose bytes have all been given.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self.records: dict[str, Record] = {}

    def __iter__(self) -> Iterator[memoryview]:
        """Give the chunks in their order; what one of them shows is gone when the next is asked for."""
        header, order = layout(self._tensors)
        room = memoryview(bytearray(min(CHUNK, len(header) + sum(one.nbytes for one in self._tensors.values()))))
        used = 0
        for name in (None, *order):
            digest = hasher()
            flat = memoryview(header) if name is None else flat_bytes(dense(self._tensors[name]))
            start = 0
            while start < len(flat):
                count = min(len(flat) - start, len(room) - used)
                part = room[used : used + count]
                part[:] = flat[start : start + count]
                digest.update(part)
                start, used = start + count, used + count
                if used == len(room):
                    yield room
                    used = 0
            if name is not None:
                tensor = self._tensors[name]
                dtype = str(tensor.dtype).removeprefix("torch.")
                self.records[name] = Record(dtype, tuple(tensor.shape), digest.hexdigest())
        if used:
            yield room[:used]
