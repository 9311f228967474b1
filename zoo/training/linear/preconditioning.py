"""A change of variables under which a linear layer on features is learnt in fewer iterations.

Features vary along a few directions far more than along all others, and an iteration that is right for the others is
too long for these. So weights are written as ``W = U P``, where ``P`` shortens each of the first directions to what a
Newton step would, by the curvature ``c·λ + decay``: λ is the features' variance along it, c the curvature of the loss.
The solution is the same; only the way there is shorter.

Source: Nocedal and Wright, "Numerical Optimization", 2nd edition, 2006, section 5.1 (preconditioning); the directions
by randomised subspace iteration (Halko, Martinsson and Tropp 2011, arXiv:0909.4061).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Directions", "directions_of"]

ROWS = 1024
"""Most rows by which the directions are found."""
MOST = 64
"""Most directions."""
CURVATURE = 0.25
"""Largest curvature of the logistic loss, at a probability of one half."""


@dataclass(frozen=True, slots=True, eq=False)
class Directions:
    """Directions of the features, and by how much weights along them are shortened.

    Args:
        basis: The directions, orthonormal.
        factor: What a weight along each is multiplied by, less 1.

    Shape:
        - ``basis``: ``(D, R)`` float64 on the CPU; ``factor``: ``(R,)``.
    """

    basis: Tensor
    factor: Tensor

    def __call__(self, weights: Tensor) -> Tensor:
        """Multiply weights, ``(K, D)``, by P; it is symmetric, so gradients are multiplied alike."""
        return weights + ((weights @ self.basis) * self.factor) @ self.basis.T


def directions_of(pooled: Tensor, decay: float) -> Directions:
    """Find the first directions of features.

    Args:
        pooled: The features, ``(N, D)``, N 1 or more.
        decay: The penalty's curvature, 0 or more.
    """
    rows = pooled[:: -(-len(pooled) // ROWS)].float()
    count = min(MOST, *rows.shape)
    draw = torch.Generator().manual_seed(0)
    basis = torch.randn(rows.shape[1], count, generator=draw).to(rows)
    for _ in range(2):
        basis = torch.linalg.qr(rows.T @ (rows @ basis)).Q
    inside = rows @ basis
    variances, turned = torch.linalg.eigh((inside.T @ inside).cpu().double() / len(rows))
    curvature = CURVATURE * variances.clamp_min(0) + decay
    least = curvature[0] if curvature[0] > 0 else curvature.new_tensor(1.0)
    return Directions(basis.cpu().double() @ turned, (least / curvature.clamp_min(least)).sqrt() - 1)
