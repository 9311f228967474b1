"""Frozen features, computed once a picture and kept.

What a frozen backbone gives for a picture depends on its weights, the preprocessing and the picture alone, so it is
stored under their digests and shared by every later run, split and head. A store is a folder of safetensors shards;
each run adds one shard with what was missing, under a name of its own, so several processes may share a store.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from zoo.bundle.digest import state_digest
from zoo.cache import cache_folder
from zoo.contracts.backbone import Backbone
from zoo.contracts.features import Features
from zoo.data import Inputs, placed
from zoo.model import Model
from zoo.spec import BackboneSpec, to_json
from zoo.wrapping import WrappedBackbone

__all__ = ["FeatureStore", "StoredFeatures", "from_flat", "storable", "to_flat"]

log = logging.getLogger("zoo")

DIGESTS = "digests"
"""Key of the samples' digests in a shard, ``(N, 32)`` uint8."""
SHARD_ROWS = 4096
"""Most rows of one shard; also the most that a killed run can lose."""


def storable(model: Model) -> bool:
    """Say whether features can be kept: of texts and sounds, tokens are as many as those of the batch's longest."""
    return not any(
        model.wants[stream].tokens and entry.backbone.modality in ("text", "audio")
        for stream, entry in model.spec.streams.items()
    )


def to_flat(features: Mapping[str, Features]) -> dict[str, Tensor]:
    """Write the features of all streams as one flat dict of tensors, ``stream/field`` or ``stream/maps/stage``."""
    flat: dict[str, Tensor] = {}
    for stream, given in features.items():
        for field in ("pooled", "tokens", "prefix", "mask", "embed", "present"):
            if (value := getattr(given, field)) is not None:
                flat[f"{stream}/{field}"] = value
        flat |= {f"{stream}/maps/{stage}": value for stage, value in given.maps.items()}
        if given.grid is not None:
            rows = next(v for v in flat.values()).shape[0]
            flat[f"{stream}/grid"] = torch.tensor([given.grid] * rows)
    return flat


def from_flat(flat: Mapping[str, Tensor]) -> dict[str, Features]:
    """Read what :func:`to_flat` wrote."""
    features: dict[str, Features] = {}
    for key, value in flat.items():
        stream, field, *stage = key.split("/")
        given = features.setdefault(stream, Features())
        if field == "maps":
            given.maps[stage[0]] = value
        elif field == "grid":
            given.grid = (int(value[0, 0]), int(value[0, 1]))
        else:
            setattr(given, field, value)
    return features


class StoredFeatures:
    """The features of some rows, read from mapped shards when they are asked for.

    Args:
        shards: The tensors of each shard.
        places: For each row, its shard and the row in it.
    """

    def __init__(self, shards: Sequence[Mapping[str, Tensor]], places: Sequence[tuple[int, int]]) -> None:
        self._shards = shards
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def select(self, rows: Sequence[int]) -> StoredFeatures:
        """Give the features of some of the rows."""
        return StoredFeatures(self._shards, [self._places[row] for row in rows])

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        shard, at = self._places[row]
        return {key: value[at] for key, value in self._shards[shard].items() if key != DIGESTS}


class FeatureStore:
    """Features of one model's frozen backbones.

    Args:
        model: The model; only its backbones matter.
        folder: Where stores are; the user's cache by default.
    """

    def __init__(self, model: Model, folder: Path | None = None) -> None:
        self.model = model
        self.folder = (folder or cache_folder("features")) / _key(model)
        self.computed = 0
        """Number of pictures that had to go through the backbones."""

    def get(self, rows: Sequence[Inputs], *, device: torch.device, batch_size: int | None = None) -> StoredFeatures:
        """Give the features of some rows, computing and keeping what is missing.

        Args:
            rows: Input name to sample, a row.
            device: Where to compute.
            batch_size: Pictures in one pass; by default 4 on the CPU, where the activations of larger batches are
                returned to the system after every layer, and 64 elsewhere.

        Raises:
            DataError: If a sample cannot be read.
        """
        with ThreadPoolExecutor(max_workers=4) as pool:
            digests = list(pool.map(_digest, rows))
        shards, places = self._read()
        missing = {d: row for d, row in zip(digests, rows, strict=True) if d not in places}
        batch_size = batch_size or (4 if device.type == "cpu" else 64)
        if missing:
            log.info("Computing the frozen features of %d samples, once.", len(missing))
            for shard in self._compute(missing, device, batch_size):
                places |= {bytes(d.tolist()).hex(): (len(shards), row) for row, d in enumerate(shard[DIGESTS])}
                shards.append(shard)
        return StoredFeatures(shards, [places[digest] for digest in digests])

    def _read(self) -> tuple[list[dict[str, Tensor]], dict[str, tuple[int, int]]]:
        shards: list[dict[str, Tensor]] = []
        places: dict[str, tuple[int, int]] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                shard = load_file(path)
                keys = shard[DIGESTS]
            except (SafetensorError, KeyError, OSError) as error:
                log.warning("The feature shard %s cannot be read and is made again: %s", path.name, error)
                _remove(path)
                continue
            places |= {bytes(d.tolist()).hex(): (len(shards), row) for row, d in enumerate(keys)}
            shards.append(shard)
        return shards, places

    def _compute(self, missing: Mapping[str, Inputs], device: torch.device, batch: int) -> Iterator[dict[str, Tensor]]:
        todo = list(missing.items())
        for start in range(0, len(todo), SHARD_ROWS):
            rows = todo[start : start + SHARD_ROWS]
            parts = list(self._forward([row for _, row in rows], device, batch))
            shard = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
            shard[DIGESTS] = torch.tensor([list(bytes.fromhex(digest)) for digest, _ in rows], dtype=torch.uint8)
            self._write(shard)
            self.computed += len(rows)
            yield shard

    def _forward(self, rows: Sequence[Inputs], device: torch.device, batch: int) -> Iterator[dict[str, Tensor]]:
        was_training = self.model.training
        self.model.eval().to(device)
        starts: Iterable[int] = range(0, len(rows), batch)
        try:
            with torch.no_grad(), ThreadPoolExecutor(max_workers=4) as pool:
                for start in starts:
                    inputs = self.model.preprocess(rows[start : start + batch], pool)
                    features = self.model.features(placed(inputs, device))
                    yield {key: value.cpu().contiguous() for key, value in to_flat(features).items()}
        finally:
            self.model.train(was_training)

    def _write(self, shard: Mapping[str, Tensor]) -> None:
        """Write a shard whole or not at all; a cache that cannot be written is no reason to stop."""
        temporary = self.folder / f".{uuid.uuid4().hex}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(dict(shard), temporary)
            os.replace(temporary, temporary.with_name(f"{uuid.uuid4().hex}.safetensors"))
        except (OSError, SafetensorError) as error:
            _remove(temporary)
            log.warning("The features are not kept, since the cache cannot be written: %s", error)


def _digest(row: Inputs) -> str:
    """Identify the content of a row; of a single input it is the sample's own digest."""
    digests = ["" if sample is None else sample.digest() for _, sample in sorted(row.items())]
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _remove(path: Path) -> None:
    """Remove a file if that can be done."""
    with contextlib.suppress(OSError):
        path.unlink()


def _preparing(spec: BackboneSpec, backbone: Backbone) -> object:
    """Say what prepares a picture: the recipe, or a digest of the files by which the backbone does it without one."""
    if spec.preprocessing is not None:
        return to_json(spec.preprocessing)
    found = hashlib.sha256()
    for name, content in sorted(backbone.native_files().items()):
        written = content if isinstance(content, bytes) else json.dumps(content, sort_keys=True).encode()
        found.update(f"{name} {len(written)} ".encode() + written)
    return found.hexdigest()


def _key(model: Model) -> str:
    """Name the store of a model's backbones: weights, preprocessing, library version and what is asked of them."""
    parts = {}
    for stream, entry in model.spec.streams.items():
        backbone, want = model.backbones[model.spec.owner(stream)], model.wants[stream]
        parts[stream] = {
            "weights": state_digest(backbone.state_dict()),
            "architecture": [entry.backbone.library, entry.backbone.library_version, entry.backbone.architecture],
            "construction": dict(entry.backbone.construction),
            "pooling": entry.backbone.pooling,
            "preprocessing": _preparing(entry.backbone, backbone),
            "code": backbone.fingerprint() if isinstance(backbone, WrappedBackbone) else None,
            "want": [want.pooled, want.tokens, want.embed, list(want.maps)],
            "input": entry.input,
        }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
