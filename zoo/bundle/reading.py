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

    def read(buffer: memoryview, start: int) -> None:
        at = 0
        while at < len(buffer):
            got = fill(buffer[at : at + _STEP], start + at)
            if got == 0:
                raise BundleError(f"{where} was cut while it was read. Get the bundle again, or save the model again.")
            if hashing is not None:
                hashing(buffer[at : at + got])
            at += got

    start = memoryview(bytearray(min(8, size)))
    read(start, 0)
    header = memoryview(bytearray(header_length(bytes(start), size, where)))
    read(header, 8)
    entries = read_entries(bytes(header), size, where)
    found: dict[str, Tensor] = {}
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        try:
            tensor = torch.empty(entry.shape, dtype=getattr(torch, entry.dtype))
        except RuntimeError as error:  # too large for the memory, or with an empty dimension for torch's own numbers
            raise BundleError(f"{where}: there is no room for {name!r} of shape {entry.shape}: {error}.") from error
        if entry.stop > entry.start:
            flat: Any = tensor.reshape(-1).view(torch.uint8).numpy()
            read(memoryview(flat), entry.start)
        found[name] = tensor
    return found


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
