"""A pruned model as data, and the model that is rebuilt from it as its bundle would be."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from zoo.bundle.rebuilding import rebuild, states_of
from zoo.bundle.saving import native_files
from zoo.bundle.tensors import snapshot
from zoo.contracts.widths import widths_of
from zoo.errors import ConfigError, ZooError
from zoo.model import Model
from zoo.pruning.measuring import all_of, sample_of, skeleton
from zoo.spec import BackboneSpec, ModelSpec

__all__ = ["copied", "rebuilt"]


def copied(model: Model, spec: ModelSpec | None = None) -> Model:
    """Give the model as a bundle of it would be loaded, on the CPU."""
    return rebuild(spec or model.spec, snapshot(states_of(model)), texts=native_files(model), where="the pruned model")


def rebuilt(work: Model) -> Model:
    """Give a pruned copy as a bundle of it would be loaded, having compared what both give.

    Raises:
        ConfigError: If what was pruned cannot be said by widths, or a head cannot follow what it reads.
    """
    try:
        spec = _described(work)
        made = copied(work, spec)
        alike = torch.equal(_given(work.eval()), _given(made))
    except (ZooError, RuntimeError) as error:
        raise ConfigError(f"The model cannot be rebuilt from its pruned widths: {error}") from error
    if not alike:
        raise ConfigError("The model that is rebuilt from its pruned widths gives other outputs; use sparsity=….")
    return made


def _given(model: Model) -> Tensor:
    """Give all that the backbones of a model can be asked for, of two pictures, as one row of numbers."""
    found: list[Tensor | None] = []
    with torch.inference_mode():
        for backbone in model.backbones.values():
            features = backbone(sample_of(backbone.spec, batch=2), all_of(backbone))
            found += [features.pooled, features.tokens, *features.maps.values()]
        samples = {stream: sample_of(entry.backbone, batch=2) for stream, entry in model.spec.streams.items()}
        found += list(model.score(model.features(samples)).values())
    return torch.cat([tensor.flatten().float() for tensor in found if tensor is not None])


def _described(work: Model) -> ModelSpec:
    """Give the spec of a pruned model: each backbone's widths, and what it gives now."""
    found: dict[str, BackboneSpec] = {}
    for stream, backbone in work.backbones.items():
        widths = widths_of(backbone.native, skeleton(backbone.spec).native)
        narrow = skeleton(backbone.spec, widths)
        with torch.inference_mode():
            given = backbone.eval()(sample_of(backbone.spec), all_of(backbone))
        spec = backbone.spec
        found[stream] = replace(
            spec,
            widths=widths,
            parameters=sum(parameter.numel() for parameter in narrow.native.parameters()),
            pooled_dim=spec.pooled_dim if given.pooled is None else int(given.pooled.shape[-1]),
            token_dim=spec.token_dim if given.tokens is None else int(given.tokens.shape[-1]),
            stages=tuple(
                replace(stage, channels=int(given.maps[stage.name].shape[1])) if stage.name in given.maps else stage
                for stage in spec.stages
            ),
        )
    streams = {name: replace(entry, backbone=found[work.spec.owner(name)]) for name, entry in work.spec.streams.items()}
    return replace(work.spec, streams=streams)
