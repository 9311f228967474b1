"""Whether embeddings have collapsed: how far they spread, and over how many directions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["LEAST_RANK", "LEAST_SPREAD", "spread_and_rank"]

LEAST_SPREAD = 0.1
"""Spread below which embeddings count as one point."""
LEAST_RANK = 1.5
"""Effective rank below which embeddings count as one line."""
MOST_ROWS = 256
"""How many rows are looked at: singular values cost the cube of them."""


def spread_and_rank(embedded: Tensor) -> tuple[Tensor, Tensor]:
    """Measure a batch of embeddings, each brought to length 1.

    The spread is the root of the sum of the dimensions' variances: 1 where the mean is at the origin, as for directions
    drawn at random, and 0 where all rows are alike. It is the standard deviation of a dimension times ``sqrt(d)``, with
    the mean over dimensions taken of squares, which stays 1 also where few dimensions hold all. The effective rank is
    the exponential of the entropy, in nats, of the singular values about the mean, as shares of their sum.

    Args:
        embedded: One embedding a row.

    Shape:
        - ``embedded``: ``(B, d)``.
        - returns: two scalars, in ``[0, 1]`` and ``[1, min(B - 1, d)]``; a rank of 1 where all rows are alike, and a
          spread of NaN where a number is none.

    Source:
        Chen and He, "Exploring Simple Siamese Representation Learning", 2020, arXiv:2011.10566, section 4.1: the
        standard deviation beside ``1 / sqrt(d)``. Garrido et al., "RankMe", 2022, arXiv:2210.02885, equation 1; there
        without subtracting the mean.
    """
    unit = nn.functional.normalize(embedded.detach().float(), dim=1)[:MOST_ROWS]
    apart = unit - unit.mean(0)
    spread = apart.square().sum(1).mean().sqrt()
    products = apart @ apart.T if len(apart) <= apart.shape[1] else apart.T @ apart
    values = torch.linalg.eigvalsh(products.nan_to_num())  # a run that diverges is for the engine to tell
    singular = values.clamp_min(0).sqrt()
    shares = singular / singular.sum().clamp_min(1e-12)
    rank = torch.special.entr(shares).sum().exp()
    return spread, torch.where(spread > 1e-4, rank, torch.ones_like(rank))
