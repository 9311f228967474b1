"""Losses of metric learning."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["arcface", "batch_hard_triplet"]


def arcface(embeddings: Tensor, prototypes: Tensor, target: Tensor, *, margin: float, scale: float) -> Tensor:
    """Give the cross-entropy of scaled cosines, where the true class's angle ``t`` was made larger by the margin.

    The true class scores ``scale * cos(t + margin)``, any other ``scale * cos(t)``.

    Args:
        embeddings: Vectors of length 1.
        prototypes: One vector a class, of any length.
        target: Index of each sample's class.
        margin: Angle in radians, in ``[0, π/2)``.
        scale: What cosines are multiplied by.

    Shape:
        - embeddings: ``(B, D)`` float32, ``B`` 1 or more; prototypes: ``(K, D)``; target: ``(B,)`` int64.
        - returns: a scalar, in nats.

    Source:
        Deng et al., "ArcFace", 2019, arXiv:1801.07698, equation 3. Where ``t + margin`` passes π the cosine would rise
        again; there ours goes on with ``cos(t) - margin * sin(margin)``, as the authors' code does without its "easy
        margin". ``sin(t)`` is bounded from below by 3e-4, where its slope is no number.
    """
    cosines = F.linear(embeddings, F.normalize(prototypes, dim=-1))
    true = cosines.gather(1, target[:, None])
    sines = (1 - true.square()).clamp(min=1e-7).sqrt()
    moved = true * math.cos(margin) - sines * math.sin(margin)
    moved = torch.where(true > math.cos(math.pi - margin), moved, true - margin * math.sin(margin))
    return F.cross_entropy(scale * cosines.scatter(1, target[:, None], moved), target)


def batch_hard_triplet(embeddings: Tensor, target: Tensor, *, margin: float | None) -> Tensor | None:
    """Give the mean over anchors of how much the farthest of their class is not nearer than the nearest of another.

    ``max(0, margin + farthest - nearest)`` in Euclidean distances, or ``softplus(farthest - nearest)``.

    Args:
        embeddings: Vectors.
        target: Class of each.
        margin: Distance, 0 or more; None for the soft margin.

    Shape:
        - embeddings: ``(B, D)`` float32; target: ``(B,)`` int64.

    Returns:
        A scalar; None where no sample has both another of its class and one of another class.

    Source:
        Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification", 2017, arXiv:1703.07737, equation
        5. There a batch has as many samples of each class; ours is any batch, and anchors without a positive or a
        negative are left out.
    """
    alike = target[:, None] == target
    positive = alike & ~torch.eye(len(target), dtype=torch.bool, device=target.device)
    anchors = positive.any(dim=1) & ~alike.all(dim=1)
    if not bool(anchors.any()):
        return None
    distances = torch.cdist(embeddings, embeddings, compute_mode="donot_use_mm_for_euclid_dist")
    farthest = distances.masked_fill(~positive, -torch.inf).amax(dim=1)[anchors]
    nearest = distances.masked_fill(alike, torch.inf).amin(dim=1)[anchors]
    apart = farthest - nearest
    return (F.softplus(apart) if margin is None else F.relu(margin + apart)).mean()
