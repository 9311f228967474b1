"""Linear centred kernel alignment: how alike two sets of features of the same rows are."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["linear_cka"]


def linear_cka(one: Tensor, other: Tensor) -> float:
    """Compare features, ``|Yᵀ X|² / (|Xᵀ X| |Yᵀ Y|)`` of centred columns, in Frobenius norms.

    Rotations and a common factor change nothing. With fewer rows than dimensions, unrelated features are far from 0, so
    a value means something beside another one of the same rows only.

    Args:
        one: ``(n, D)``.
        other: ``(n, E)``.

    Returns:
        0 to 1, 1 for features that are alike; NaN if one of them does not vary.

    Source:
        Kornblith et al., "Similarity of Neural Network Representations Revisited", 2019, arXiv:1905.00414.
    """
    a, b = (features.double() - features.double().mean(dim=0) for features in (one, other))
    if len(a) < max(a.shape[1], b.shape[1]):
        left, right = a @ a.T, b @ b.T
        cross = (left * right).sum()
    else:
        left, right = a.T @ a, b.T @ b
        cross = (b.T @ a).square().sum()
    scale = torch.linalg.norm(left) * torch.linalg.norm(right)
    return float(cross / scale) if scale > 0 else float("nan")
