"""Linear separability: what a linear model gets right on rows that it has not seen."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.advising.questions import Question
from zoo.advising.scoring import skill

__all__ = ["fit_linear", "linear_probe", "standardise"]

FOLDS = 5
PENALTIES = (1e-1, 1e-2, 1e-3)
"""Penalties that are tried, from strong to weak, on rows of a mean squared length of 1."""
STEPS = 200
FLOOR = 1e-6


def standardise(features: Tensor) -> Tensor:
    """Bring every dimension to mean 0 and one variance, and the mean squared length of a row to 1.

    Args:
        features: ``(n, D)``; dimensions that do not vary become 0.

    Returns:
        ``(n, D)`` float64.
    """
    exact = features.double()
    centred = exact - exact.mean(dim=0)
    spread = centred.square().mean(dim=0).sqrt()
    varies = spread > FLOOR * spread.max().clamp_min(torch.finfo(torch.float64).tiny)
    scaled = torch.where(varies, centred / torch.where(varies, spread, 1.0), 0.0)
    return scaled / math.sqrt(max(1, int(varies.sum())))


def linear_probe(features: Tensor, question: Question, *, seed: int = 0) -> tuple[float, Tensor]:
    """Predict each row by a linear model of the other folds; the best of three penalties counts.

    Classes are learnt by multinomial logistic regression with balanced class weights, labels by one such of two classes
    each, numbers by ridge regression. Features are standardised over all rows, which needs no label.

    Args:
        features: ``(n, D)``, one row a label.
        question: The labels.
        seed: Seed of the folds.

    Returns:
        The skill, and the predictions, as the question's target.
    """
    rotated = _rotated(standardise(features))
    fold = _folds(question, seed)
    found = [torch.zeros_like(question.target) for _ in PENALTIES]
    for number in range(int(fold.max()) + 1):
        held, rest = fold == number, fold != number
        start = None
        for penalty, predicted in zip(PENALTIES, found, strict=True):
            start = fit_linear(rotated[rest], question.at(rest.nonzero().squeeze(1)), penalty, start=start)
            predicted[held] = _decide(rotated[held] @ start[:-1] + start[-1], question)
    scored = [(skill(question.kind, question.target, predicted), predicted) for predicted in found]
    return max(scored, key=lambda one: -math.inf if math.isnan(one[0]) else one[0])


def fit_linear(features: Tensor, question: Question, penalty: float, *, start: Tensor | None = None) -> Tensor:
    """Minimise the mean loss plus ``penalty / 2`` times the sum of the squared weights, without the intercepts.

    Args:
        features: ``(n, D)`` float64.
        question: The labels.
        penalty: Above 0.
        start: Where to begin, as this gives it.

    Returns:
        ``(D + 1, K)`` float64: weights, and the intercepts in the last row; K is 1 for numbers.
    """
    rows, width = features.shape
    if question.kind == "numbers":
        middle, mean = features.mean(dim=0), question.target.mean()
        centred = features - middle
        gram = centred.T @ centred / rows + penalty * torch.eye(width, dtype=torch.float64)
        weights = torch.linalg.solve(gram, centred.T @ (question.target - mean) / rows)
        return torch.cat([weights, (mean - middle @ weights)[None]])[:, None]
    many = len(question.names)
    shape = (width + 1, many)
    found = torch.zeros(shape, dtype=torch.float64) if start is None else start.clone()
    found.requires_grad_(True)
    balance = _balance(question)
    solver = torch.optim.LBFGS(
        [found], max_iter=STEPS, tolerance_grad=1e-6, tolerance_change=1e-12, history_size=20,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        solver.zero_grad()
        scores = features @ found[:-1] + found[-1]
        if question.kind == "classes":
            each = F.cross_entropy(scores, question.target, reduction="none")
        else:
            each = F.binary_cross_entropy_with_logits(scores, question.target.double(), reduction="none")
        total = (each * balance).sum() / rows + penalty / 2 * found[:-1].square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        solver.step(loss)
    return found.detach()


def _balance(question: Question) -> Tensor:
    """Give each row, or each label of it, a weight, so that all classes weigh the same; the mean weight is 1."""
    counts = question.counts().double()
    rows = len(question)
    if question.kind == "classes":
        there = int((counts > 0).sum())
        return (rows / (there * counts.clamp_min(1)))[question.target]
    yes, no = rows / (2 * counts.clamp_min(1)), rows / (2 * (rows - counts).clamp_min(1))
    return torch.where(question.target, yes, no)


def _decide(scores: Tensor, question: Question) -> Tensor:
    if question.kind == "classes":
        return scores.argmax(dim=1)
    return scores > 0 if question.kind == "labels" else scores.squeeze(1)


def _rotated(features: Tensor) -> Tensor:
    """Turn the axes to those in which the rows lie; a penalised solution lies in them, too, and they may be fewer."""
    rows, width = features.shape
    if width <= rows:
        return features
    left, values, _ = torch.linalg.svd(features, full_matrices=False)
    return left * values


def _folds(question: Question, seed: int) -> Tensor:
    """Give each row a fold; each class is spread over all of them, as far as it has rows."""
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(question), generator=draw)
    if question.kind == "classes":
        order = order[question.target[order].argsort(stable=True)]
    folds = torch.empty(len(question), dtype=torch.int64)
    folds[order] = torch.arange(len(question)) % min(FOLDS, len(question))
    return folds
