"""Skill: how far predictions are above chance, 0 for guessing and 1 for no error, whatever the number of classes."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.advising.questions import Kind

__all__ = ["gain", "gain_error", "skill"]

DRAWS = 200
"""Bootstrap samples; their deviation is then known to within a twentieth of itself."""
SOLVED = 0.99
"""Skill of a reference above which there is nothing left for pretraining to bring."""


def skill(kind: Kind, target: Tensor, predicted: Tensor) -> float:
    """Measure predictions.

    Of classes it is ``(a - 1/K) / (1 - 1/K)``, with the balanced accuracy ``a`` over the ``K`` classes that are there;
    of labels the mean of that over the labels, each a question of two classes; of numbers ``R²``, whose 0 is the mean.

    Shape:
        - ``target``, ``predicted``: as the target of :class:`zoo.advising.questions.Question`.

    Returns:
        The skill, at most 1; NaN where the target does not vary.
    """
    if kind == "numbers":
        spread = (target - target.mean()).square().sum()
        return float(1 - (target - predicted).square().sum() / spread) if spread > 0 else float("nan")
    if kind == "labels":
        pairs = zip(target.unbind(1), predicted.unbind(1), strict=True)
        each = torch.tensor([skill("classes", t.long(), p.long()) for t, p in pairs])
        return float(each.nanmean())
    counts = torch.bincount(target)
    right = torch.bincount(target[target == predicted], minlength=len(counts))
    there = counts > 0
    many = int(there.sum())
    if many < 2:
        return float("nan")
    accuracy = float((right[there] / counts[there]).mean())
    return (accuracy - 1 / many) / (1 - 1 / many)


def gain(pretrained: float, reference: float) -> float:
    """Give the share of a reference's errors that pretrained features do away with; below 0 if they make more.

    Args:
        pretrained: Skill on pretrained features.
        reference: Skill without pretraining; below chance counts as chance.
    """
    reference = min(max(reference, 0.0), SOLVED)
    return (pretrained - reference) / (1 - reference)


def gain_error(kind: Kind, target: Tensor, pretrained: Tensor, reference: Tensor, *, seed: int) -> float:
    """Estimate the standard error of the gain by drawing rows with replacement, the same for both.

    Args:
        kind: What the labels are.
        target: The labels.
        pretrained: Predictions on pretrained features, each by a model that had not seen the row.
        reference: The same without pretraining.
        seed: Seed of the draws.

    Source:
        Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979.
    """
    draw = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(DRAWS):
        rows = torch.randint(len(target), (len(target),), generator=draw)
        pair = [skill(kind, target[rows], guess[rows]) for guess in (pretrained, reference)]
        found.append(gain(*pair))
    each = torch.tensor(found, dtype=torch.float64)
    each = each[each.isfinite()]
    return float(each.std()) if len(each) > 1 else float("inf")
