"""What quantization did, in numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["QuantizeReport"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeReport:
    """What :func:`zoo.quantize` did to the backbones of a model; heads stay in float and are not counted.

    Args:
        layers: Number of convolutions and linear layers whose weights are rounded to integers.
        places: Number of places where activations are.
        rows: Rows by which the ranges of the places were found.
        weights: Share of the parameters that are such weights.
        agreement: Share of those rows for which every classifier of the model names the class that it named in float;
            None for a model without one.
        left: Layers that stay in float, since a pass runs them several times, or never, as modules.
    """

    layers: int
    places: int
    rows: int
    weights: float
    agreement: float | None
    left: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return {**asdict(self), "left": list(self.left)}
