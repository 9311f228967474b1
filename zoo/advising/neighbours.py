"""Nearest-neighbour separability: whether rows with the same label lie next to one another."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.advising.questions import Question
from zoo.advising.scoring import skill

__all__ = ["neighbours"]

NEAREST = 5
CHUNK = 1024
"""Rows whose similarities are held at once."""


def neighbours(features: Tensor, question: Question) -> float:
    """Predict each row by the five rows next to it, itself left out, and measure that.

    Rows are compared by the cosine of their features. A neighbour's vote counts by the inverse of its class's share, so
    that common classes do not win by being common; of classes with equal votes the one that is nearer wins. Of numbers
    the mean of the neighbours is taken.

    Args:
        features: ``(n, D)``, one row a label; n 2 or more.
        question: The labels.

    Returns:
        The skill.

    Source:
        Fix and Hodges, "Discriminatory Analysis: Nonparametric Discrimination", 1951, with the balanced vote added; as
        a test of frozen features, Caron et al., 2021, arXiv:2104.14294, who weigh votes by similarity.
    """
    unit = F.normalize(features.double(), dim=1)
    count = min(NEAREST, len(unit) - 1)
    predicted = []
    for first in range(0, len(unit), CHUNK):
        here = unit[first : first + CHUNK]
        alike = here @ unit.T
        alike[torch.arange(len(here)), torch.arange(first, first + len(here))] = -torch.inf
        near, rows = alike.topk(count, dim=1)
        predicted.append(_vote(near, rows, question))
    return skill(question.kind, question.target, torch.cat(predicted))


def _vote(near: Tensor, rows: Tensor, question: Question) -> Tensor:
    """Give the prediction from the neighbours' similarities and row numbers, ``(n, k)`` each."""
    held = question.target[rows]
    if question.kind == "numbers":
        return held.mean(dim=1)
    counts = question.counts().double()
    ties = 1 + 1e-6 * near
    if question.kind == "classes":
        one_hot = F.one_hot(held, len(counts)).double()
        return ((one_hot * ties[..., None]).sum(dim=1) / counts.clamp_min(1)).argmax(dim=1)
    yes = (held.double() * ties[..., None]).sum(dim=1) / counts.clamp_min(1)
    no = ((~held).double() * ties[..., None]).sum(dim=1) / (len(question) - counts).clamp_min(1)
    return yes > no
