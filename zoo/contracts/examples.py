"""Random inputs that a backbone takes: for dry runs and for the conformance kit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.spec import BackboneSpec, InputSpec

__all__ = ["example_input", "example_inputs"]

SIDE = 96
"""Height and width of an example in pixels, where the backbone takes any size."""
VOCABULARY = 20
"""Tokens are below this."""
LENGTHS = {"video": 8, "tokens": 12, "mask": 12, "waveform": 16000, "spectrogram": 128}
"""Number of frames, tokens, samples or steps, where the backbone takes any."""


def example_inputs(spec: BackboneSpec, batch: int = 2, *, seed: int = 0) -> dict[str, Tensor]:
    """Make random inputs, all the required ones.

    Args:
        spec: The backbone.
        batch: Number of rows.
        seed: Seed of the values; torch's global generator is neither read nor changed.

    Returns:
        Input name to tensor.
    """
    generator = torch.Generator().manual_seed(seed)
    return {entry.name: example_input(entry, batch, generator) for entry in spec.inputs if entry.required}


def example_input(
    entry: InputSpec, batch: int, generator: torch.Generator, *, size: tuple[int, int] | None = None
) -> Tensor:
    """Make one random input.

    Args:
        entry: What the backbone takes.
        batch: Number of rows.
        generator: Where the values come from.
        size: Height and width in pixels; by default the backbone's own, or a smaller one where it takes any.
    """
    length = _length(entry)
    if entry.kind == "mask":
        return torch.ones(batch, length, dtype=torch.int64)
    if not entry.dtype.startswith("float"):
        shape = (batch, length) if entry.rank == 2 else (batch, *([length] * (entry.rank - 1)))
        return torch.randint(1, VOCABULARY, shape, generator=generator)
    middle = (entry.channels,) if entry.channels is not None else ()
    if entry.kind in ("image", "video"):
        frames = (length,) if entry.kind == "video" else ()
        return torch.randn(batch, *middle, *frames, *(size or _size(entry)), generator=generator)
    tail = entry.size if entry.size is not None else (length,)
    shape = (batch, *middle, *tail)
    if len(shape) < entry.rank:
        shape = (*shape[:1], *([length] * (entry.rank - len(shape))), *shape[1:])
    return torch.randn(shape, generator=generator)


def _length(entry: InputSpec) -> int:
    usual = LENGTHS.get(entry.kind, 12)
    if entry.length is None:
        return usual
    return entry.length if entry.fixed_length or entry.kind == "video" else min(usual, entry.length)


def _size(entry: InputSpec) -> tuple[int, int]:
    height, width = entry.size or (64, 64)
    if entry.fixed_size or entry.kind == "video":
        return height, width
    step = math.lcm(entry.divisor, 32)
    side = -(-max(SIDE, entry.least) // step) * step
    return min(height, side), min(width, side)
