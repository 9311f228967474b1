"""How far the features of two domains are apart: second moments, kernel means, and a classifier to be misled."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["coral_loss", "mmd_loss", "reversal_strength", "reverse"]


def coral_loss(source: Tensor, target: Tensor) -> Tensor:
    """Give the squared Frobenius distance of the covariances, divided by ``4 C²``.

    Args:
        source: Features of one domain, ``(B, C)``, two rows or more.
        target: Those of the other, ``(B', C)``, two rows or more.

    Source:
        Sun and Saenko, "Deep CORAL", 2016, arXiv:1607.01719, equations 1 to 3.
    """
    apart = _covariance(source.float()) - _covariance(target.float())
    return apart.square().sum() / (4 * source.shape[1] ** 2)


def _covariance(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(dim=0)
    return centred.T @ centred / (len(rows) - 1)


def mmd_loss(source: Tensor, target: Tensor, kernels: int = 5) -> Tensor:
    """Give the squared distance of the kernel means, 0 or more, by a mean of Gaussian kernels.

    Kernel ``u`` of ``U`` is ``exp(-d² / (2^(u - U // 2) m))`` with the squared distance ``d²`` of two rows and its
    mean ``m`` over all pairs of different rows of both domains, through which no gradient goes.

    Args:
        source: Features of one domain, ``(B, C)``.
        target: Those of the other, ``(B', C)``.
        kernels: How many kernels, 1 or more.

    Source:
        Long et al., "Learning Transferable Features with Deep Adaptation Networks", 2015, arXiv:1502.02791, equations
        1 to 4. Ours takes all pairs of the batch, where the paper takes a linear number of them, the mean of the
        distances for the median, and weighs the kernels alike.
    """
    rows = torch.cat([source.float(), target.float()])
    count, total = len(source), len(rows)
    squares = rows.square().sum(dim=1)
    distances = (squares[:, None] + squares[None] - 2 * rows @ rows.T).clamp_min(0)
    distances = distances * (1 - torch.eye(total, device=rows.device))
    mean = (distances.detach().sum() / (total * (total - 1))).clamp_min(torch.finfo(rows.dtype).tiny)
    similar = torch.stack([(-distances / (2.0 ** (u - kernels // 2) * mean)).exp() for u in range(kernels)]).mean(dim=0)
    within = similar[:count, :count].mean() + similar[count:, count:].mean()
    return within - 2 * similar[:count, count:].mean()


def reversal_strength(progress: float) -> float:
    """Give the factor of the reversed gradient, ``2 / (1 + exp(-10 p)) - 1``: 0 at the start, near 1 at the end.

    Args:
        progress: Share of the run that is done, in ``[0, 1]``.

    Source:
        Ganin et al., "Domain-Adversarial Training of Neural Networks", 2016, arXiv:1505.07818, section 5.2.2.
    """
    return 2 / (1 + math.exp(-10 * progress)) - 1


def reverse(features: Tensor, strength: float) -> Tensor:
    """Give the same features; the gradient that comes back is multiplied with ``-strength``."""
    found: Tensor = _Reversal.apply(features, strength)
    return found


class _Reversal(torch.autograd.Function):
    """The gradient reversal layer, equations 17 and 18 of the same paper."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradient, None
