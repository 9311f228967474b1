"""Proving a spec by running: which sizes are taken, and whether the module does what the spec says."""

from __future__ import annotations

from dataclasses import replace

import torch

from zoo.contracts.backbone import Backbone
from zoo.contracts.examples import example_input
from zoo.contracts.features import Features, Want
from zoo.errors import ConfigError, ZooError
from zoo.spec import BackboneSpec
from zoo.wrapping.looking import Look
from zoo.wrapping.tracing import as_found

__all__ = ["prove", "with_sizes"]

MOST_DIVISOR = 64
"""Heights and widths are tried in steps of up to this, in pixels."""


def with_sizes(backbone: Backbone, seen: Look) -> BackboneSpec:
    """Find by running which picture sizes it takes: steps of powers of two, and the least."""
    spec = backbone.spec
    if seen.other is None or seen.sizes is None:
        return spec
    first, *others = spec.inputs
    height, width = seen.sizes.first

    def takes(divisor: int, size: tuple[int, int]) -> bool:
        free = replace(first, fixed_size=False, divisor=divisor)
        backbone.spec = replace(spec, inputs=(free, *others))
        try:
            features = _features(backbone, size)
        except Exception:  # as above
            return False
        return features.pooled is not None and features.pooled.shape[-1] == spec.pooled_dim

    steps = [2**power for power in range(MOST_DIVISOR.bit_length())]
    fitting = (s for s in steps if not height % s and not width % s and takes(s, (height + s, width + 3 * s)))
    divisor = next(fitting, None)
    if divisor is None:
        return spec
    low, high = 0, min(height, width) // divisor  # in steps; low is too small, high is taken
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if takes(divisor, (middle * divisor,) * 2) else (middle, high)
    entry = replace(first, fixed_size=False, divisor=divisor, least=high * divisor)
    has = tuple(sorted({*spec.capabilities, "dynamic_size"}))
    return replace(spec, inputs=(entry, *others), capabilities=has)


def _features(backbone: Backbone, size: tuple[int, int] | None = None) -> Features:
    """Run a backbone for all that it gives."""
    spec = backbone.spec
    own = next(backbone.parameters(), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    given = {entry.name: example_input(entry, 2, generator, size=size) for entry in spec.inputs if entry.required}
    given = {k: t.to(own.device, own.dtype if t.is_floating_point() else t.dtype) for k, t in given.items()}
    want = Want(tokens="tokens" in spec.capabilities, maps=tuple(stage.name for stage in spec.maps))
    return backbone(given, want)


def prove(backbone: Backbone) -> None:
    """See that the spec is true of the module.

    Raises:
        ConfigError: If it is not.
    """
    spec = backbone.spec
    with as_found(backbone):
        try:
            features = _features(backbone)
        except ZooError as error:
            raise ConfigError(f"The module does not do what its spec says: {error}") from error
        except Exception as error:  # as above
            raise ConfigError(
                f"The module does not do what its spec says: {type(error).__name__}: {error}. "
                "Pass stages=… and layout=…."
            ) from error
    pooled = features.pooled
    if pooled is None or tuple(pooled.shape) != (2, spec.pooled_dim):
        got = None if pooled is None else tuple(pooled.shape)
        raise ConfigError(f"The pooled vector of {spec.reference} must be (2, {spec.pooled_dim}), got {got}.")
    for stage in spec.maps:
        if features.maps[stage.name].ndim != 4 or features.maps[stage.name].shape[1] != stage.channels:
            raise ConfigError(
                f"The map {stage.name} of {spec.reference} must have {stage.channels} channels, got "
                f"{tuple(features.maps[stage.name].shape)}; pass layout=… or stages=…."
            )
