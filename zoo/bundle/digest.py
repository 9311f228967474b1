"""The state digest: what a set of tensors is, whatever file or order it came in.

``zsd1:sha256:<hex>`` is sha256 over one record a tensor, sorted by name: name, dtype, shape, and the sha256 of its
little-endian contiguous bytes. Weights from a hub file, from three shards or from a model in memory have one digest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Record", "digest_records", "state_digest"]

PREFIX = "zsd1:sha256:"


@dataclass(frozen=True, slots=True)
class Record:
    """What the state digest knows of one tensor.

    Args:
        dtype: Its dtype, as torch names it: ``float32``.
        shape: Its shape.
        sha256: Hex digest of its bytes.
    """

    dtype: str
    shape: Sequence[int]
    sha256: str


def state_digest(tensors: Mapping[str, Tensor]) -> str:
    """Give the digest of named tensors; those that are contiguous and on the CPU are not copied.

    Args:
        tensors: Name to dense tensor.

    Returns:
        ``zsd1:sha256:`` and 64 hex digits.

    Example:
        >>> import torch
        >>> a, b = torch.arange(3), torch.ones(2, 2)
        >>> state_digest({"a": a, "b": b}) == state_digest({"b": b, "a": a})
        True
    """
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:  # hashing lets other threads run
        return digest_records(dict(zip(tensors, pool.map(_record, tensors.values()), strict=True)))


def _record(tensor: Tensor) -> Record:
    import torch

    dense = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    flat = dense.as_strided((dense.numel(),), (1,))  # a dimension of size 1 may have any stride and is contiguous
    held: Any = flat.view(torch.uint8).numpy()
    sha256 = hashlib.sha256(held).hexdigest()
    return Record(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), sha256)


def digest_records(records: Mapping[str, Record]) -> str:
    """Give the digest from each tensor's record, as :func:`state_digest` does from the tensors."""
    whole = hashlib.sha256()
    for name in sorted(records):
        record = records[name]
        line = json.dumps([name, record.dtype, list(record.shape), record.sha256], separators=(",", ":"))
        whole.update(line.encode("ascii") + b"\n")
    return PREFIX + whole.hexdigest()
