"""Reading a tensor file in one pass: each tensor into memory of its own, hashed on the way.

The header is checked in full first, so that what is allocated is what the file has. The files of bundles are not
mapped: one that is changed or cut afterwards does not touch the tensors. Those of the store are, and one that is being
written.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.bundle.folder import OpenFile
from zoo.bundle.hashing import hasher
from zoo.bundle.header import header_length, read_entries
from zoo.errors import BundleError

__all__ = ["decode", "map_or_read", "map_tensors", "read_file", "read_tensors"]

_STEP = 2**20
"""Bytes that are asked for at a time."""
_LARGE = 2**16
"""Bytes of a piece that is read to where it belongs, and not by way of a room for many."""


def read_file(opened: OpenFile) -> dict[str, Tensor]:
    """Read a tensor file of a bundle, and compare its digest with the manifest's, unless it is known to be well.

    Raises:
        BundleError: If it is not what was saved.
    """
    size = opened.entry.size

    def fill(buffer: memoryview, at: int) -> int:
        return os.preadv(opened.fd, [buffer], at)

    if opened.is_known():
        return read_tensors(fill, size, None, opened.where)
    digest = hasher()
    tensors = read_tensors(fill, size, digest.update, opened.where)
    opened.settle(digest.hexdigest())
    return tensors


def decode(data: bytes, where: str) -> dict[str, Tensor]:
    """Read a whole safetensors file from memory; the tensors are copies.

    Raises:
        BundleError: If it is damaged.
    """

    def fill(buffer: memoryview, at: int) -> int:
        piece = data[at : at + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)

    return read_tensors(fill, len(data), None, where)


def read_tensors(
    fill: Callable[[memoryview, int], int], size: int, hashing: Callable[[memoryview], object] | None, where: str
) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file.

    Args:
        fill: Fills a buffer with the bytes of the file from a place on, and says how many there were.
        size: Its size in bytes.
        hashing: Gets every byte of the file once, in order, while it is in the processor's cache; None for nobody.
        where: Its path, for the message.

    Returns:
        Name to tensor on the CPU, contiguous, in the order of the file.

    Raises:
        BundleError: If its header is damaged, it is shorter than ``size``, or its tensors do not fit the memory.
    """
    file = _InOrder(fill, size, hashing, where)
    header = memoryview(bytearray(header_length(bytes(file.read(memoryview(bytearray(min(8, size))))), size, where)))
    entries = read_entries(bytes(file.read(header)), size, where)
    found: dict[str, Tensor] = {}
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        try:
            tensor = torch.empty(entry.shape, dtype=getattr(torch, entry.dtype))
        except RuntimeError as error:  # too large for the memory, or with an empty dimension for torch's own numbers
            raise BundleError(f"{where}: there is no room for {name!r} of shape {entry.shape}: {error}.") from error
        if entry.stop > entry.start:
            flat: Any = tensor.reshape(-1).view(torch.uint8).numpy()
            file.read(memoryview(flat))
        found[name] = tensor
    return found


class _InOrder:
    """The bytes of a file one after another: many small pieces by one call of the system, large ones without a copy.

    Args:
        fill: As :func:`read_tensors` has it, and so are the others.
    """

    def __init__(
        self,
        fill: Callable[[memoryview, int], int],
        size: int,
        hashing: Callable[[memoryview], object] | None,
        where: str,
    ) -> None:
        self._fill, self._size, self._hashing, self._where = fill, size, hashing, where
        self._room = memoryview(bytearray(min(_STEP, size)))
        self._held = self._room[:0]  # what was read and nobody had yet
        self._at = 0

    def read(self, buffer: memoryview) -> memoryview:
        """Fill a buffer with the bytes that come next, and give it back.

        Raises:
            BundleError: If the file has fewer.
        """
        done = 0
        while done < len(buffer):
            if not self._held and len(buffer) - done >= _LARGE:
                done += self._take(buffer[done : done + _STEP])
                continue
            if not self._held:
                self._held = self._room[: self._take(self._room[: self._size - self._at])]
            count = min(len(self._held), len(buffer) - done)
            buffer[done : done + count] = self._held[:count]
            self._held = self._held[count:]
            done += count
        return buffer

    def _take(self, into: memoryview) -> int:
        """Read from the file."""
        got = self._fill(into, self._at)
        if got == 0:
            raise BundleError(
                f"{self._where} was cut while it was read. Get the bundle again, or save the model again."
            )
        if self._hashing is not None:
            self._hashing(into[:got])
        self._at += got
        return got


def map_tensors(fd: int, size: int, where: str) -> dict[str, Tensor]:
    """Map all tensors of an open safetensors file; a page is read when it is first used.

    The mapping is private: what is written to a tensor is not written to the file. A file that is cut afterwards kills
    the process when a lost page is used, so this is for files that nobody else changes: of the store, and of a bundle
    before it is published.

    Raises:
        BundleError: If its header is damaged.
        OSError: If the file system cannot map files.
    """
    length = header_length(os.pread(fd, 8, 0), size, where)
    entries = read_entries(os.pread(fd, length, 8), size, where)
    whole = torch.frombuffer(mmap.mmap(fd, size, access=mmap.ACCESS_COPY), dtype=torch.uint8)
    found: dict[str, Tensor] = {}
    for name, entry in entries.items():
        dtype = getattr(torch, entry.dtype)
        piece = whole[entry.start : entry.stop]
        if entry.start % dtype.itemsize:
            piece = piece.clone()
        found[name] = piece.view(dtype).reshape(entry.shape)
    return found


def map_or_read(fd: int, size: int, where: str) -> dict[str, Tensor]:
    """Map all tensors of an open safetensors file, or read them where the file system cannot map files.

    Raises:
        BundleError: If its header is damaged.
    """
    try:
        return map_tensors(fd, size, where)
    except OSError:
        return read_tensors(lambda view, at: os.preadv(fd, [view], at), size, None, where)
