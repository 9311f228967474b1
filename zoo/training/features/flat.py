"""Features as one flat dict of tensors, the form in which they are stored and make batches."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.contracts.features import Features
from zoo.model import Model

__all__ = ["from_flat", "storable", "to_flat"]


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
