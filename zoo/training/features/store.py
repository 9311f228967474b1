"""Frozen features, computed once a picture and kept.

What a frozen backbone, or the frozen part of one, gives for a picture depends on its weights, the preprocessing and the
picture alone, so it is stored under their digests and shared by every later run, split and head. A store is a folder of
safetensors shards; each run adds shards with what was missing, under names of their own, so several processes may share
a store.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.cache import cache_folder
from zoo.data import Inputs, placed
from zoo.model import Model
from zoo.training.features.evicting import cache_limit, hold, make_room
from zoo.training.features.flat import from_flat, storable, to_flat
from zoo.training.features.passes import Pass, WholePass
from zoo.training.features.shards import DIGESTS, StoredFeatures, read_shard, write_shard

__all__ = ["FeatureStore", "Prepare", "StoredFeatures", "digests_of", "from_flat", "storable", "to_flat"]

log = logging.getLogger("zoo")

SHARD_ROWS = 4096
"""Most rows of one shard; also the most that a killed run can lose."""
SHARD_BYTES = 256 * 2**20
"""Bytes at which a shard is written, if it has fewer rows."""

Prepare = Callable[[Sequence[int], ThreadPoolExecutor], Any]
"""From numbers of rows to the batch that the model takes of them."""


class FeatureStore:
    """Features of one model's frozen backbones.

    Args:
        model: The model; only its backbones matter.
        folder: Where stores are; the user's cache by default.
        through: What is run; the whole backbones by default.
        device: The type of the device that computes, such as ``cpu``; another one rounds otherwise.
        views: What says how the pictures are varied; empty for not at all.
    """

    def __init__(
        self,
        model: Model,
        folder: Path | None = None,
        *,
        through: Pass | None = None,
        device: str = "cpu",
        views: str = "",
    ) -> None:
        self.model = model
        self.through = through or WholePass(model)
        self._root = folder or cache_folder("features")
        key = {**self.through.key(), "device": device, "views": views}
        self.folder = self._root / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        self.computed = 0
        """Number of pictures that had to go through the backbones."""

    def get(
        self,
        rows: Sequence[Inputs],
        *,
        device: torch.device,
        batch_size: int | None = None,
        digests: Sequence[str] | None = None,
        prepare: Prepare | None = None,
    ) -> StoredFeatures:
        """Give the features of some rows, computing and keeping what is missing.

        Args:
            rows: Input name to sample, a row.
            device: Where to compute.
            batch_size: Pictures in one pass; by default 4 on the CPU, where the activations of larger batches are
                returned to the system after every layer, and 64 elsewhere.
            digests: What identifies each row; that of its samples by default.
            prepare: How rows are prepared; as for prediction by default.

        Raises:
            DataError: If a sample cannot be read.
            ConfigError: If ``$ZOO_CACHE_LIMIT`` is no number of bytes.
        """
        limit = cache_limit()
        digests = digests_of(rows) if digests is None else digests
        held = hold(self.folder)
        shards: list[Mapping[str, Tensor]] = []
        places: dict[str, tuple[int, int]] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            if (shard := read_shard(path)) is not None:
                _take(shard, shards, places)
        missing = {digest: row for row, digest in enumerate(digests) if digest not in places}
        if missing:
            log.info("Computing the frozen features of %d samples, once.", len(missing))
            plain: Prepare = lambda wanted, pool: self.model.preprocess([rows[row] for row in wanted], pool)  # noqa: E731
            for made in self._compute(missing, prepare or plain, device, batch_size or _batch_size(device)):
                path_or_none = write_shard(self.folder, made)
                kept = None if path_or_none is None else read_shard(path_or_none)
                _take(made if kept is None else kept, shards, places)  # what is mapped takes no memory
            make_room(self._root, self.folder, limit=limit)
        return StoredFeatures(shards, [places[digest] for digest in digests], held)

    def _compute(
        self, missing: Mapping[str, int], prepare: Prepare, device: torch.device, batch: int
    ) -> Iterator[dict[str, Tensor]]:
        """Give the features of the missing rows in shards."""
        todo = list(missing.items())
        parts: list[dict[str, Tensor]] = []
        size = done = 0
        with self.through.ready(device), torch.no_grad(), ThreadPoolExecutor(max_workers=4) as pool:
            while done < len(todo):
                count = min(batch, SHARD_ROWS - sum(map(_rows, parts)))
                wanted = todo[done : done + count]
                made = self.through.run(placed(prepare([row for _, row in wanted], pool), device))
                part = {key: value.cpu().contiguous() for key, value in made.items()}
                part[DIGESTS] = torch.tensor([list(bytes.fromhex(d)) for d, _ in wanted], dtype=torch.uint8)
                parts.append(part)
                size += sum(value.nbytes for value in part.values())
                done += len(wanted)
                self.computed += len(wanted)
                if done == len(todo) or size >= SHARD_BYTES or sum(map(_rows, parts)) >= SHARD_ROWS:
                    yield {key: torch.cat([one[key] for one in parts]) for key in part}
                    parts, size = [], 0


def digests_of(rows: Sequence[Inputs], marks: Sequence[str] | None = None) -> list[str]:
    """Identify the content of rows; of a single input it is the sample's own digest.

    Args:
        rows: Input name to sample, a row.
        marks: What else decides a row's features, such as the seed of its view; nothing by default.

    Returns:
        64 hex digits each.
    """
    with ThreadPoolExecutor(max_workers=4) as pool:
        found = list(pool.map(_digest, rows))
    if marks is None:
        return found
    return [hashlib.sha256(f"{one} {mark}".encode()).hexdigest() for one, mark in zip(found, marks, strict=True)]


def _digest(row: Inputs) -> str:
    digests = ["" if sample is None else sample.digest() for _, sample in sorted(row.items())]
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _take(shard: Mapping[str, Tensor], shards: list[Mapping[str, Tensor]], places: dict[str, tuple[int, int]]) -> None:
    """Note where the rows of one more shard are."""
    text = shard[DIGESTS].numpy().tobytes().hex()
    places |= {text[64 * row : 64 * row + 64]: (len(shards), row) for row in range(_rows(shard))}
    shards.append(shard)


def _rows(part: Mapping[str, Tensor]) -> int:
    return len(part[DIGESTS])


def _batch_size(device: torch.device) -> int:
    return 4 if device.type == "cpu" else 64
