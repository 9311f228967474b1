"""The state digest: what a set of tensors is, whatever file or order it came in.

``zsd1:blake3:<hex>`` is BLAKE3 over one record a tensor, sorted by name: name, dtype, shape, and the BLAKE3 of its
little-endian contiguous bytes. Weights from a hub file, from three shards or from a model in memory have one digest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo.bundle.hashing import digest_of, hasher

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Record", "digest_records", "records_of", "state_digest"]

PREFIX = "zsd1:blake3:"


_quoted = json.JSONEncoder().encode


@dataclass(frozen=True, slots=True)
class Record:
    """What the state digest knows of one tensor.

    Args:
        dtype: Its dtype, as torch names it: ``float32``.
        shape: Its shape.
        blake3: Hex digest of its bytes.
    """

    dtype: str
    shape: Sequence[int]
    blake3: str


def state_digest(tensors: Mapping[str, Tensor]) -> str:
    """Give the digest of named tensors; those that are contiguous and on the CPU are not copied.

    Args:
        tensors: Name to dense tensor.

    Returns:
        ``zsd1:blake3:`` and 64 hex digits.

    Example:
        >>> import torch
        >>> a, b = torch.arange(3), torch.ones(2, 2)
        >>> state_digest({"a": a, "b": b}) == state_digest({"b": b, "a": a})
        True
    """
    return digest_records(records_of(tensors))


def records_of(tensors: Mapping[str, Tensor]) -> dict[str, Record]:
    """Give the record of each tensor."""
    return {name: _record(tensor) for name, tensor in tensors.items()}


def _record(tensor: Tensor) -> Record:
    from zoo.bundle.tensors import flat_bytes

    dense = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    return Record(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), digest_of(flat_bytes(dense)))


def digest_records(records: Mapping[str, Record]) -> str:
    """Give the digest from each tensor's record, as :func:`state_digest` does from the tensors."""
    whole = hasher()
    for name in sorted(records):
        record = records[name]
        shape = ",".join(map(str, record.shape))
        line = f"[{_quoted(name)},{_quoted(record.dtype)},[{shape}],{_quoted(record.blake3)}]\n"  # JSON without spaces
        whole.update(line.encode("ascii"))
    return PREFIX + str(whole.hexdigest())
