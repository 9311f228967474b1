"""One vector a row of what a head reads: from the backbones, from untrained ones, and from the pixels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.assembly import assemble, context_of
from zoo.contracts.features import Features
from zoo.data import Inputs, placed
from zoo.model import Model
from zoo.training.features.passes import inputs_by_stream
from zoo.training.features.store import FeatureStore, from_flat, storable
from zoo.wrapping import WRAPPED

__all__ = ["frozen_vectors", "live_vectors", "pixel_vectors", "streams_of", "untrained", "vectors_of"]

PIXELS = 16
"""Height and width to which pictures are averaged."""
BATCH = 16


def streams_of(model: Model, task: str) -> tuple[str, ...]:
    """Name the streams that the head of a task reads."""
    context = context_of(model.spec)
    read = {stream for head in model.heads.values() if task in head.tasks() for stream in context.needs(head.spec)}
    return tuple(stream for stream in model.spec.streams if stream in read)


def vectors_of(features: dict[str, Features], streams: Sequence[str]) -> Tensor:
    """Give one vector a row: the pooled vectors of the streams side by side, of a stream that is not there zeros.

    Where a stream gives no pooled vector it is its projected one, else the mean of its tokens, else of its last map.

    Shape:
        - returns: ``(B, D)`` float32.
    """
    return torch.cat([_vector(features[stream]) for stream in streams], dim=1)


def frozen_vectors(model: Model, rows: Sequence[Inputs], place: torch.device, streams: Sequence[str]) -> Tensor:
    """Give the vectors of rows from the backbones as they are; they are kept as frozen features are.

    Raises:
        DataError: If a sample cannot be read.
    """
    if not storable(model):
        return live_vectors(model, rows, place, streams)
    held = FeatureStore(model, device=place.type).get(rows, device=place)
    numbers = torch.arange(len(rows)).split(BATCH)
    return torch.cat([vectors_of(from_flat(held.batch(some)), streams) for some in numbers])


def live_vectors(model: Model, rows: Sequence[Inputs], place: torch.device, streams: Sequence[str]) -> Tensor:
    """Give the vectors of rows by running the backbones, in eval mode; nothing is kept, and the model's mode stays."""
    found = []
    was_training = model.training
    model.eval().to(place)
    try:
        with torch.no_grad(), ThreadPoolExecutor(max_workers=4) as pool:
            for some in _batches(rows):
                features = model.features(placed(model.preprocess(some, pool), place))
                found.append(vectors_of(features, streams).cpu())
    finally:
        model.train(was_training)
    return torch.cat(found)


def untrained(model: Model, *, seed: int) -> Model | None:
    """Build the same model with random weights; None where a backbone is a module of the user's own.

    It prepares samples as the model does, with its tokenizer. torch's global generator stays as it was.
    """
    if any(entry.backbone.provider == WRAPPED for entry in model.spec.streams.values()):
        return None
    with torch.random.fork_rng():
        twin = assemble(model.spec, weights=None, seed=seed)
    for stream, backbone in twin.backbones.items():
        files = model.backbones[stream].native_files().items()
        backbone.take_files({name: c if isinstance(c, bytes) else json.dumps(c).encode() for name, c in files})
    return twin


def pixel_vectors(model: Model, rows: Sequence[Inputs], streams: Sequence[str]) -> Tensor | None:
    """Give the pictures themselves, averaged to 16 × 16 pixels; None where a stream looks at anything else."""
    if any(model.spec.streams[stream].backbone.modality != "image" for stream in streams):
        return None
    found = []
    with ThreadPoolExecutor(max_workers=4) as pool:
        for some in _batches(rows):
            seen: dict[str, Any] = inputs_by_stream(model, model.preprocess(some, pool))
            pictures = [seen[stream] for stream in streams]
            if not all(isinstance(one, Tensor) and one.ndim == 4 for one in pictures):
                return None
            small = [F.adaptive_avg_pool2d(one.float(), PIXELS).flatten(1) for one in pictures]
            found.append(torch.cat(small, dim=1))
    return torch.cat(found)


def _vector(features: Features) -> Tensor:
    if features.pooled is not None:
        found = features.pooled
    elif features.embed is not None:
        found = features.embed
    elif features.tokens is not None:
        there = torch.ones(features.tokens.shape[:2]) if features.mask is None else features.mask
        weights = there.to(features.tokens)[..., None]
        found = (features.tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1)
    else:
        found = list(features.maps.values())[-1].mean(dim=(2, 3))
    found = found.float()
    return found if features.present is None else found * features.present[:, None]


def _batches(rows: Sequence[Inputs]) -> list[Sequence[Inputs]]:
    return [rows[first : first + BATCH] for first in range(0, len(rows), BATCH)]
