"""From what the members gave on validation rows, and the labels, to weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zoo.contracts.head import Task
from zoo.ensembling.combining import Stack, linear, mixture, stack_inputs

__all__ = ["fit_stack", "greedy_counts", "simplex_weights"]

_LEAST = 1e-6
_ITERATIONS = 500


def simplex_weights(task: Task, outputs: Tensor, targets: Tensor) -> tuple[float, ...]:
    """Find the weights, 0 or more with sum 1, whose mean of probabilities (or numbers) has the least loss of the task.

    L-BFGS on the logarithms of the weights, from equal ones; the result is compared with equal weights and with each
    member alone. A weight below 1e-6 is 0.

    Args:
        task: The task, in float64.
        outputs: What the members gave, float64.
        targets: Encoded labels, all known.

    Shape:
        - ``outputs``: ``(M, N, …)``; ``targets``: ``(N, …)``.
    """
    count = len(outputs)

    def loss(weights: Tensor) -> Tensor:
        return task.loss(mixture(outputs, task.activation, weights), targets)

    logs = torch.zeros(count, dtype=outputs.dtype, requires_grad=True)
    _minimise([logs], lambda: loss(logs.softmax(dim=0)))
    found = logs.detach().softmax(dim=0)
    found = torch.where(found < _LEAST, 0, found)
    tried = [found / found.sum(), torch.full_like(found, 1 / count), *torch.eye(count, dtype=found.dtype)]
    with torch.no_grad():
        losses = [float(loss(weights)) for weights in tried]
    best = min(range(len(tried)), key=lambda n: losses[n] if math.isfinite(losses[n]) else math.inf)
    return tuple(tried[best].tolist())


def fit_stack(task: Task, outputs: Tensor, targets: Tensor, *, strength: float) -> Stack:
    """Fit a linear model on the outputs: ``z_k = Σ_m w_mk x_mk + b_k``.

    The task's mean loss plus ``strength / (2 N) Σ (w_mk - 1/M)²`` is least; the bias is free. Without any rows that
    would be the plain mean.

    Args:
        task: The task, in float64.
        outputs: What the members gave, float64.
        targets: Encoded labels, all known.
        strength: How strongly the weights are drawn to the mean, above 0.

    Shape:
        - ``outputs``: ``(M, N, …)``; ``targets``: ``(N, …)``.
    """
    inputs = stack_inputs(outputs, task.activation)
    members, rows = inputs.shape[:2]
    flat = (inputs.unsqueeze(2) if inputs.ndim == 2 else inputs).movedim(2, 1).flatten(2)  # (M, K, samples)
    width = flat.shape[1]
    centre, scale = flat.mean(dim=2), flat.std(dim=(0, 2), correction=0).clamp(min=1e-12)
    stack = Stack(members, width)
    weight = stack.weight.clone().requires_grad_()
    shift = torch.zeros(width, dtype=torch.float64, requires_grad=True)

    def bias() -> Tensor:  # about the centre, in units of the spread, so that any unit is as easy as another
        return (centre * (1 / members)).sum(dim=0) - (weight * centre).sum(dim=0) + shift * scale

    def objective() -> Tensor:
        far = (weight - 1 / members).square().sum()
        return task.loss(linear(inputs, weight, bias()), targets) + strength / (2 * rows) * far

    _minimise([weight, shift], objective)
    stack.weight.copy_(weight.detach())
    stack.bias.copy_(bias().detach())
    return stack


def _minimise(parameters: Sequence[Tensor], objective: Callable[[], Tensor]) -> None:
    """Minimise by L-BFGS."""
    optimizer = torch.optim.LBFGS(
        list(parameters),
        max_iter=_ITERATIONS,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        optimizer.zero_grad()
        value = objective()
        value.backward()
        return float(value.detach())

    with torch.enable_grad():
        optimizer.step(closure)


def greedy_counts(task: Task, outputs: Tensor, targets: Tensor, *, rounds: int, start: int) -> tuple[int, ...]:
    """Select members one after another, with replacement: always the one that makes the ensemble's metric best.

    It starts with the ``start`` best members by themselves; the selection of the best round is taken. Of equal metrics
    the lower loss decides, then the order of the members.

    Args:
        task: The task.
        outputs: What the members gave, float32.
        targets: Encoded labels, all known.
        rounds: Selections at the most, ``start`` among them.
        start: Number of members that are there from the beginning, 1 to the number of members.

    Returns:
        How often each member was selected.

    Shape:
        - ``outputs``: ``(M, N, …)``; ``targets``: ``(N, …)``.

    Source:
        Caruana et al., "Ensemble Selection from Libraries of Models", 2004, with replacement and sorted initialisation;
        ours takes the whole library in each round, without its bagging.
    """
    count = len(outputs)

    def score(selected: Sequence[int]) -> tuple[float, float]:
        weights = torch.bincount(torch.tensor(selected), minlength=count).double() / len(selected)
        return _score(task, mixture(outputs, task.activation, weights), targets)

    alone = sorted(range(count), key=lambda n: score([n]), reverse=True)
    bag = alone[:start]
    best, best_score = list(bag), score(bag)
    while len(bag) < rounds:
        tried = [(score([*bag, n]), n) for n in range(count)]
        top = max(found for found, _ in tried)
        bag.append(next(n for found, n in tried if found == top))
        if top > best_score:
            best, best_score = list(bag), top
    return tuple(best.count(n) for n in range(count))


def _score(task: Task, output: Tensor, targets: Tensor) -> tuple[float, float]:
    """Give the deciding metric and the loss of an output, each so that more is better."""
    name, higher = task.best_metric
    metrics = task.metrics()
    task.update(metrics, output, targets)
    value, loss = float(metrics.compute()[name]), float(task.loss(output, targets))
    worst = -math.inf
    return (
        worst if math.isnan(value) else (value if higher else -value),
        worst if math.isnan(loss) else -loss,
    )
