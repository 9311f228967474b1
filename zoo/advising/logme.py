"""LogME: how likely the labels are under a Bayesian linear model of the features, its parameters integrated out."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.advising.questions import Question

__all__ = ["evidence", "log_evidence", "logme"]

ROUNDS = 500
CLOSE = 1e-8
"""Relative change of both precisions at which the fixed point is there."""
NO_SIGNAL = 1e12
"""Precision of the weights, as a multiple of the noise's, at which the features are taken to say nothing."""


def logme(features: Tensor, question: Question) -> float:
    """Measure how much better the features explain the labels than no features do, in nats a row and column.

    The log marginal evidence of ``y = F w + noise`` is maximised over the precisions of weights and noise, for each
    column of the one-hot labels, or the numbers themselves, and averaged.

    Args:
        features: ``(n, D)``, one row a label.
        question: The labels.

    Returns:
        The mean evidence a row, less that of a model without weights; about 0 where the features say nothing.

    Source:
        You et al., "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", 2021, arXiv:2102.11005.
        Ours centres features and columns and brings the columns to variance 1, so that a constant explains nothing and
        all columns weigh alike, and subtracts the evidence without features, so that 0 is chance for any number of
        classes. Features are scaled as a whole only, to which the evidence is indifferent.
    """
    exact = features.double()
    centred = exact - exact.mean(dim=0)
    size = float(centred.square().mean().sqrt())
    centred = centred / size if size > 0 else centred
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    empty = -0.5 * math.log(2 * math.pi) - 0.5
    found = []
    for column in _columns(question).unbind(1):
        moved = column - column.mean()
        moved = moved / moved.square().mean().sqrt()
        found.append(evidence(left.T @ moved, values.square(), float(moved @ moved), len(moved)) / len(moved) - empty)
    return float(torch.tensor(found, dtype=torch.float64).mean())


def evidence(projected: Tensor, squares: Tensor, length: float, rows: int) -> float:
    """Maximise the log evidence of one column over the precisions of weights (α) and noise (β).

    With the singular values ``s`` of the features, and ``γ = Σ β s² / (α + β s²)``, the fixed point of
    ``α = γ / |m|²`` and ``β = (n - γ) / |F m - y|²`` is a maximum; ``m`` is the posterior mean of the weights.

    Args:
        projected: ``Uᵀ y``, with the left singular vectors of the features, ``(r,)``.
        squares: The squared singular values, ``(r,)``.
        length: ``|y|²``.
        rows: Number of rows.

    Returns:
        The log evidence, in nats.
    """
    alpha, beta = 1.0, 1.0
    best = -math.inf
    outside = max(0.0, length - float(projected.square().sum()))
    for _ in range(ROUNDS):
        share = beta * squares / (alpha + beta * squares)
        gamma = float(share.sum())
        weights = float((share.square() * projected.square() / squares.clamp_min(1e-300)).sum())
        missed = outside + float(((1 - share) * projected).square().sum())
        best = max(best, log_evidence(alpha, beta, projected, squares, length, rows))
        new_alpha = gamma / max(weights, 1e-300)
        new_beta = max(rows - gamma, 1e-9) / max(missed, 1e-12 * length)
        still = abs(new_alpha / alpha - 1) < CLOSE and abs(new_beta / beta - 1) < CLOSE
        alpha, beta = new_alpha, new_beta
        if still or alpha > NO_SIGNAL * beta:
            break
    return max(best, log_evidence(alpha, beta, projected, squares, length, rows))


def log_evidence(alpha: float, beta: float, projected: Tensor, squares: Tensor, length: float, rows: int) -> float:
    """Give the log evidence for some precisions, equation 2 of the paper in the basis of the singular vectors.

    ``n/2 ln β + D/2 ln α - n/2 ln 2π - β/2 |F m - y|² - α/2 |m|² - 1/2 ln |α I + β Fᵀ F|``; directions in which the
    features do not vary cancel.
    """
    total = alpha + beta * squares
    share = beta * squares / total
    weights = float((share.square() * projected.square() / squares.clamp_min(1e-300)).sum())
    outside = max(0.0, length - float(projected.square().sum()))
    missed = outside + float(((1 - share) * projected).square().sum())
    return (
        0.5 * rows * math.log(beta / (2 * math.pi))
        + 0.5 * float((math.log(alpha) - total.log()).sum())
        - 0.5 * beta * missed
        - 0.5 * alpha * weights
    )


def _columns(question: Question) -> Tensor:
    """Give the labels as columns, ``(n, K)`` float64; of two classes one column says all."""
    if question.kind == "numbers":
        return question.target[:, None]
    if question.kind == "labels":
        return question.target.double()
    one_hot = torch.nn.functional.one_hot(question.target, len(question.names)).double()
    return one_hot[:, 1:] if one_hot.shape[1] == 2 else one_hot
