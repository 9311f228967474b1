"""What a backbone gives (:class:`Features`) and what is asked of it (:class:`Want`)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from zoo.spec import Want

__all__ = ["Features", "Want"]


@dataclass(slots=True)
class Features:
    """What one forward pass of a backbone gives; what was not asked for is None or empty.

    A registered pytree whose structure is fixed once the :class:`Want` is, so compiling and exporting keep one graph.

    Shape:
        - ``pooled``: ``(B, pooled_dim)``.
        - ``tokens``: ``(B, N, token_dim)``, without class and register tokens.
        - ``prefix``: ``(B, P, token_dim)``, the class and register tokens.
        - ``maps``: stage name to ``(B, C, H, W)``, always in that layout.
        - ``mask``: ``(B, N)``, bool, True where a token is real; None if all are.
        - ``embed``: ``(B, E)``, the projected vector of a dual-tower model, normalised to length 1.
        - ``grid``: height and width of the token grid, so that ``N == grid[0] * grid[1]``.
        - ``present``: ``(B,)``, bool, False where the sample has no input for this stream, and what stands here for it
          means nothing; None if all have one. The model sets it, not the backbone.
    """

    pooled: Tensor | None = None
    tokens: Tensor | None = None
    prefix: Tensor | None = None
    maps: dict[str, Tensor] = field(default_factory=dict)
    mask: Tensor | None = None
    embed: Tensor | None = None
    grid: tuple[int, int] | None = None
    present: Tensor | None = None


torch.export.register_dataclass(Features, serialized_type_name="zoo.Features")
