"""Where a backbone rounds to integers of eight bits, as data."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Quantized"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """Where a backbone rounds; paths are those of modules in the library's own.

    Weights are rounded to -127 … 127 times a step of each output channel, activations to -128 … 127 times a step of
    each place, with a range of its own that is a tensor beside the backbone's.

    Args:
        layers: The convolutions and linear layers whose weights are rounded.
        inputs: The modules whose first input is rounded.
        outputs: The modules whose output is rounded; their ranges are behind those of ``inputs``.
        observer: By what the ranges were found.
    """

    layers: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    observer: str


setattr(Quantized, "__pydantic_config__", {"extra": "forbid", "allow_inf_nan": False})  # noqa: B010
