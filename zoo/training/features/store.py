"""Frozen features, computed once a picture and kept.

What a frozen backbone, or the frozen part of one, gives for a picture depends on its weights, the preprocessing and the
picture alone, so it is stored under their digests and shared by every later run, split, head and model that has the
backbone as one of its streams. A store is a folder of safetensors shards; each run adds shards with what was missing,
under names of their own, so several processes may share a store.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.cache import cache_folder
from zoo.data import Inputs, Sample, placed
from zoo.model import Model
from zoo.training.features.evicting import cache_limit, hold, make_room
from zoo.training.features.flat import from_flat, storable, to_flat
from zoo.training.features.passes import Pass, WholePass
from zoo.training.features.shards import DIGESTS, StoredFeatures, StoredPart, read_shard, write_shard

__all__ = ["FeatureStore", "Prepare", "StoredFeatures", "digests_of", "from_flat", "storable", "to_flat"]

log = logging.getLogger("zoo")

SHARD_ROWS = 4096
"""Most rows of one shard; also the most that a killed run can lose."""
SHARD_BYTES = 256 * 2**20
"""Bytes at which a shard is written, if it has fewer rows."""

Prepare = Callable[[Sequence[int], ThreadPoolExecutor], Any]
"""From numbers of rows to the batch that the model takes of them."""


class FeatureStore:
    """Features of one model's frozen backbones; each stream's are kept by themselves, for any model that has it.

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
        keys = {
            stream: {**self.through.key(stream), "device": device, "views": views} for stream in self.through.streams
        }
        self.folders = {stream: self._root / _name(key) for stream, key in keys.items()}
        """Stream to the folder of its features; streams that give the same of equal inputs have one folder."""
        self.computed = 0
        """Number of rows that had to go through a backbone."""

    def get(
        self,
        rows: Sequence[Inputs],
        *,
        device: torch.device,
        batch_size: int | None = None,
        marks: Sequence[str] | None = None,
        prepare: Prepare | None = None,
    ) -> StoredFeatures:
        """Give the features of some rows, computing and keeping what is missing.

        Args:
            rows: Input name to sample, a row.
            device: Where to compute.
            batch_size: Pictures in one pass; by default 4 on the CPU, where the activations of larger batches are
                returned to the system after every layer, and 64 elsewhere.
            marks: What else than its samples decides a row's features, such as the seed of its view; nothing by
                default.
            prepare: How rows are prepared; as for prediction by default.

        Raises:
            DataError: If a sample cannot be read.
            ConfigError: If ``$ZOO_CACHE_LIMIT`` is no number of bytes.
        """
        limit = cache_limit()
        streams, spec = self.through.streams, self.model.spec.streams
        digests = {name: digests_of(rows, name, marks) for name in {spec[stream].input for stream in streams}}
        stores = {folder: _Store(folder) for folder in self.folders.values()}
        missing: dict[tuple[int, ...], dict[str, _Store]] = {}
        for stream in self._apart():
            store = stores[self.folders[stream]]
            if lacked := store.lacking(digests[spec[stream].input]):
                missing.setdefault(tuple(lacked), {})[stream] = store
        plain: Prepare = lambda wanted, pool: self.model.preprocess([rows[row] for row in wanted], pool)  # noqa: E731
        for todo, lacking in missing.items():
            log.info("Computing the frozen features of %d samples, once.", len(todo))
            for done, made in self._compute(todo, tuple(lacking), prepare or plain, device, batch_size):
                for stream, store in lacking.items():
                    inner = {key.partition("/")[2]: value for key, value in made.items() if _is_of(key, stream)}
                    store.add(inner, [digests[spec[stream].input][row] for row in done])
        if missing:
            make_room(self._root, set(self.folders.values()), limit=limit)
        parts = {stream: stores[self.folders[stream]].part(digests[spec[stream].input]) for stream in streams}
        return StoredFeatures(parts, self._present(rows, streams), len(rows))

    def _apart(self) -> Iterable[str]:
        """Give the streams without those that give the same of the same input as one before them."""
        found: dict[tuple[Path, str], str] = {}
        for stream in self.through.streams:
            found.setdefault((self.folders[stream], self.model.spec.streams[stream].input), stream)
        return found.values()

    def _present(self, rows: Sequence[Inputs], streams: Sequence[str]) -> dict[str, Tensor]:
        """Say which rows have the inputs that rows may lack."""
        may_lack = {preparer.input for preparer in self.model.preparers().values() if preparer.optional}
        found = {name: torch.tensor([row.get(name) is not None for row in rows]) for name in may_lack}
        inputs = {stream: self.model.spec.streams[stream].input for stream in streams}
        return {stream: found[name] for stream, name in inputs.items() if name in found}

    def _compute(
        self,
        todo: Sequence[int],
        streams: tuple[str, ...],
        prepare: Prepare,
        device: torch.device,
        batch_size: int | None,
    ) -> Iterator[tuple[Sequence[int], dict[str, Tensor]]]:
        """Give rows and their features of some streams, a shard at a time."""
        batches = _batches(len(todo), batch_size or _batch_size(device))
        parts: list[dict[str, Tensor]] = []
        size = begun = 0
        with self.through.ready(device), torch.no_grad():
            for part, inputs in _ahead(batches, lambda part, pool: prepare(todo[part.start : part.stop], pool)):
                made = self.through.run(placed(inputs, device), streams)
                parts.append({key: value.cpu().contiguous() for key, value in made.items() if not key.endswith(_GAPS)})
                size += sum(value.nbytes for value in parts[-1].values())
                self.computed += len(part)
                if part.stop == len(todo) or size >= SHARD_BYTES or part.stop % SHARD_ROWS == 0:
                    yield todo[begun : part.stop], {key: torch.cat([one[key] for one in parts]) for key in parts[0]}
                    parts, size, begun = [], 0, part.stop


def _batches(rows: int, batch: int) -> Iterator[range]:
    """Divide rows into batches, none of which goes over the end of a shard."""
    for begin in range(0, rows, SHARD_ROWS):
        stop = min(begin + SHARD_ROWS, rows)
        yield from (range(at, min(at + batch, stop)) for at in range(begin, stop, batch))


def _ahead(
    batches: Iterable[range], prepare: Callable[[range, ThreadPoolExecutor], Any]
) -> Iterator[tuple[range, Any]]:
    """Give each batch with its inputs, which are prepared while those of the batch before it are computed."""
    with ThreadPoolExecutor(max_workers=4) as pool, ThreadPoolExecutor(max_workers=1) as beside:
        coming: tuple[range, Future[Any]] | None = None
        for part in batches:
            here, coming = coming, (part, beside.submit(prepare, part, pool))
            if here is not None:
                yield here[0], here[1].result()
        if coming is not None:
            yield coming[0], coming[1].result()


class _Store:
    """The shards in a folder, open.

    Args:
        folder: The folder; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._held = folder, hold(folder)
        self._shards: list[Mapping[str, Tensor]] = []
        self._places: dict[str, tuple[int, int]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            if (shard := read_shard(path)) is not None:
                self._take(shard)

    def lacking(self, digests: Sequence[str]) -> list[int]:
        """Give the rows whose features are not there; of equal rows, one."""
        return list({digest: row for row, digest in enumerate(digests) if digest not in self._places}.values())

    def add(self, made: Mapping[str, Tensor], digests: Sequence[str]) -> None:
        """Keep the features of some rows."""
        if all(digest in self._places for digest in digests):
            return  # another stream gives the same
        shard = {**made, DIGESTS: torch.tensor([list(bytes.fromhex(one)) for one in digests], dtype=torch.uint8)}
        path = write_shard(self._folder, shard)
        kept = None if path is None else read_shard(path)
        self._take(shard if kept is None else kept)  # what is mapped takes no memory

    def part(self, digests: Sequence[str]) -> StoredPart:
        """Give the features of rows."""
        return StoredPart(self._shards, [self._places[digest] for digest in digests], self._held)

    def _take(self, shard: Mapping[str, Tensor]) -> None:
        """Note where the rows of one more shard are."""
        text = shard[DIGESTS].numpy().tobytes().hex()
        rows = range(len(shard[DIGESTS]))
        self._places |= {text[64 * row : 64 * row + 64]: (len(self._shards), row) for row in rows}
        self._shards.append(shard)


_GAPS = "/present"
"""What says which rows lack an input follows from the rows, and is not kept."""


def _is_of(key: str, stream: str) -> bool:
    return key.partition("/")[0] == stream


def _name(key: Mapping[str, Any]) -> str:
    """Name the folder of features that depend on something."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


def digests_of(rows: Sequence[Inputs], name: str, marks: Sequence[str] | None = None) -> list[str]:
    """Identify the content of one input of rows.

    Args:
        rows: Input name to sample, a row.
        name: The input.
        marks: What else decides a row's features, such as the seed of its view; nothing by default.

    Returns:
        64 hex digits each.
    """
    with ThreadPoolExecutor(max_workers=4) as pool:
        found = list(pool.map(lambda row: _digest(row.get(name)), rows))
    if marks is None:
        return found
    return [hashlib.sha256(f"{one} {mark}".encode()).hexdigest() for one, mark in zip(found, marks, strict=True)]


def _digest(sample: Sample | None) -> str:
    return hashlib.sha256(b"").hexdigest() if sample is None else sample.digest()


def _batch_size(device: torch.device) -> int:
    return 4 if device.type == "cpu" else 64
