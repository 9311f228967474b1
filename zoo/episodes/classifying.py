"""Classifiers that learn an episode's classes from its support, for many episodes at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["CLASSIFIERS"]

STEPS = 300
TOLERANCE = 1e-7


def centroid(support: Tensor, queries: Tensor) -> Tensor:
    """Give minus the squared Euclidean distance to the mean of each class's support.

    Shape:
        - support: ``(E, ways, shots, D)``; queries: ``(E, Q, D)``.
        - returns: ``(E, Q, ways)``.

    Source:
        Snell et al., "Prototypical Networks for Few-shot Learning", 2017, arXiv:1703.05175, equations 1 and 2.
    """
    mode = "donot_use_mm_for_euclid_dist"
    return -torch.cdist(queries, support.mean(dim=2), compute_mode=mode).square()


def cosine(support: Tensor, queries: Tensor) -> Tensor:
    """Give the cosine to the mean of each class's support; shapes as for :func:`centroid`."""
    means = F.normalize(support.mean(dim=2), dim=-1)
    return F.normalize(queries, dim=-1) @ means.transpose(1, 2)


@torch.enable_grad()
def logistic(support: Tensor, queries: Tensor) -> Tensor:
    """Give the logits of a multinomial logistic regression on vectors of length 1; shapes as for :func:`centroid`.

    It minimises the sum of the cross-entropies plus half the sum of the squared weights, without the intercepts. The
    weights lie in the span of the support, so that they are looked for there.

    Source:
        Tian et al., "Rethinking Few-Shot Image Classification: a Good Embedding Is All You Need?", 2020,
        arXiv:2003.11539, section 3.1, with scikit-learn's penalty of C = 1.
    """
    episodes, ways, shots, _ = support.shape
    rows = F.normalize(support, dim=-1).flatten(1, 2).double()
    basis, inside = torch.linalg.qr(rows.transpose(1, 2))  # rows = inside^T basis^T
    seen = inside.transpose(1, 2)
    right = torch.arange(ways).repeat_interleave(shots).expand(episodes, -1)
    weights = torch.zeros(episodes, seen.shape[2], ways, dtype=torch.float64, requires_grad=True)
    intercepts = torch.zeros(episodes, 1, ways, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, intercepts],
        max_iter=STEPS,
        tolerance_grad=TOLERANCE,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = seen @ weights + intercepts
        found = F.cross_entropy(logits.flatten(0, 1), right.flatten(), reduction="sum") + weights.square().sum() / 2
        found.backward()
        return found

    optimizer.step(loss)
    there = F.normalize(queries, dim=-1).double() @ basis
    return (there @ weights + intercepts).detach()


CLASSIFIERS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"centroid": centroid, "cosine": cosine, "logistic": logistic}
)
"""Name to classifier: support and queries in, logits out."""
