"""Shards of features: safetensors files that are checked when they are opened, mapped, and read a batch at a time."""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from zoo.bundle.digest import state_digest

__all__ = ["DIGESTS", "StoredFeatures", "StoredPart", "read_shard", "write_shard"]

log = logging.getLogger("zoo")

DIGESTS = "digests"
"""Key of the samples' digests in a shard, ``(N, 32)`` uint8."""
STATE = "state"
"""Key of the digest of all tensors in a shard's metadata."""

Shard = Mapping[str, Tensor]


class StoredPart:
    """The features of some rows that one store has, gathered from mapped shards when they are asked for.

    Args:
        shards: The tensors of each shard.
        places: For each row, its shard and the row in it.
        held: What must live as long as the features do.
    """

    def __init__(self, shards: Sequence[Shard], places: Sequence[tuple[int, int]] | Tensor, held: object) -> None:
        self.shards = [{key: value for key, value in shard.items() if key != DIGESTS} for shard in shards]
        self.places = torch.as_tensor(places, dtype=torch.int64).reshape(-1, 2)
        self.held = held

    def batch(self, rows: Tensor, keys: Collection[str] | None = None) -> dict[str, Tensor]:
        """Give the features of some rows as a batch: a copy, one selection for each shard that has some of them."""
        places = self.places[rows]
        which, at = places.unbind(1)
        needed = [0] if len(self.shards) == 1 else torch.unique(which).tolist()
        made: dict[str, Tensor] = {}
        for shard in needed:
            here = None if len(needed) == 1 else (which == shard).nonzero().squeeze(1)
            for key, value in self.shards[shard].items():
                if keys is not None and key not in keys:
                    continue
                if here is None:
                    made[key] = value.index_select(0, at)
                    continue
                if key not in made:
                    made[key] = value.new_empty((len(places), *value.shape[1:]))
                made[key][here] = value.index_select(0, at[here])
        return made


class StoredFeatures:
    """The features of some rows, of all streams of a model.

    Args:
        parts: Stream to what its store has of the rows; all have the same number.
        present: Stream to which rows have its input, ``(N,)`` bool; streams whose input no row may lack are left out.
        count: The number of rows.
    """

    def __init__(self, parts: Mapping[str, StoredPart], present: Mapping[str, Tensor], count: int) -> None:
        self._parts, self._present, self._rows = dict(parts), dict(present), torch.arange(count)

    def __len__(self) -> int:
        return len(self._rows)

    def select(self, rows: Sequence[int]) -> StoredFeatures:
        """Give the features of some of the rows."""
        chosen = StoredFeatures(self._parts, self._present, 0)
        chosen._rows = self._rows[list(rows)]
        return chosen

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {key: value[0] for key, value in self.batch([row]).items()}

    def batch(self, rows: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Give the features of some rows as a batch.

        Shape:
            - returns: flat key to ``(len(rows), …)``.
        """
        chosen = self._rows[torch.as_tensor(rows, dtype=torch.int64)]
        made = {f"{s}/{key}": value for s, part in self._parts.items() for key, value in part.batch(chosen).items()}
        return made | {f"{stream}/present": there[chosen] for stream, there in self._present.items()}

    def whole(self, key: str) -> dict[str, Tensor]:
        """Give one of the features of all rows, as a batch."""
        stream, _, inside = key.partition("/")
        return {key: self._parts[stream].batch(self._rows, {inside})[inside]}


def write_shard(folder: Path, shard: Shard) -> Path | None:
    """Write a shard whole or not at all; a cache that cannot be written is no reason to stop.

    Returns:
        The new file; None if it could not be written.
    """
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(shard), temporary, metadata={STATE: state_digest(shard)})
        path = temporary.with_name(f"{uuid.uuid4().hex}.safetensors")
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        _remove(temporary)
        log.warning("The features are not kept, since the cache cannot be written: %s", error)
        return None
    return path


def read_shard(path: Path) -> dict[str, Tensor] | None:
    """Map a shard and check every byte of it; one that is damaged is removed.

    Returns:
        Its tensors, with :data:`DIGESTS`; None if it cannot be used.
    """
    try:
        with safe_open(path, framework="pt") as file:
            shard: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            state = (file.metadata() or {}).get(STATE)
        if DIGESTS not in shard or state is None:
            raise KeyError(f"it has no {DIGESTS if state else 'digest of its own'}")
        if state_digest(shard) != state:
            raise ValueError("its bytes are not those that were written")
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        log.warning("The feature shard %s cannot be read and is made again: %s", path.name, error)
        _remove(path)
        return None
    return shard


def _remove(path: Path) -> None:
    """Remove a file if that can be done."""
    with contextlib.suppress(OSError):
        path.unlink()
