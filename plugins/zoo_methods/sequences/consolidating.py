"""What holds weights that mattered: the diagonal of the Fisher information, and the penalty for leaving the anchor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from zoo.contracts.objective import TrainingRows
    from zoo.model import Model

__all__ = ["accumulated", "fisher_of", "grown_to", "penalty", "row_of"]


def fisher_of(model: Model, rows: TrainingRows, chosen: Iterable[int]) -> dict[str, Tensor]:
    """Give the diagonal of the empirical Fisher information: the mean square of each row's gradient.

    The gradient is that of the row's loss at its true label, with the model in eval mode: for a classifier the
    negative log-likelihood, as Kirkpatrick et al. take it.

    Args:
        model: The model, in eval mode and on ``rows.place``.
        rows: The training rows.
        chosen: Numbers of the rows that it is the mean over.

    Returns:
        Name to values, float32, for each parameter that requires a gradient.
    """
    parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
    found = {name: torch.zeros_like(one, dtype=torch.float32) for name, one in parameters.items()}
    wanted, first = sorted(chosen), 0
    with torch.enable_grad():
        for inputs in rows.batches():
            size = len_of(inputs)
            for row in (row for row in wanted if first <= row < first + size):
                targets = {name: target[row : row + 1].to(rows.place) for name, target in rows.targets.items()}
                losses = model.losses(model(row_of(inputs, row - first)), targets)
                loss = torch.stack(list(losses.values())).sum()
                gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
                for name, gradient in zip(parameters, gradients, strict=True):
                    if gradient is not None:
                        found[name] += gradient.detach().float() ** 2 / len(wanted)
            first += size
            if not wanted or first > wanted[-1]:
                break
    return found


def len_of(inputs: Any) -> int:
    """Give the number of rows of what a model takes."""
    return len(inputs) if isinstance(inputs, Tensor) else len_of(next(iter(inputs.values())))


def row_of(inputs: Any, row: int) -> Any:
    """Give one row of what a model takes, as a batch."""
    if isinstance(inputs, Tensor):
        return inputs[row : row + 1]
    return {name: row_of(one, row) for name, one in inputs.items()}


def grown_to(tensor: Tensor, like: Tensor, fill: Tensor | None = None) -> Tensor:
    """Give a tensor the shape of another that grew: what was there first, behind it 0 or what ``fill`` has there."""
    made = torch.zeros_like(like, dtype=torch.float32) if fill is None else fill.detach().float().clone()
    made[tuple(map(slice, tensor.shape))] = tensor.to(made)
    return made


def accumulated(
    before: Mapping[str, Mapping[str, Tensor]] | None,
    fisher: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    *,
    decay: float | None,
) -> dict[str, dict[str, Tensor]]:
    """Add a task's Fisher information and weights to those of the tasks before.

    Without decay, the sum of a quadratic penalty a task, each with its own weights, is one penalty but for a constant:
    ``Σ_t F_t (θ - θ_t)² = F (θ - a)² + c`` with ``F = Σ F_t`` and ``a = Σ F_t θ_t / F``; so two tensors are kept of any
    number of tasks, and the gradient is that of the paper's sum. With decay γ, it is online EWC: ``F ← γ F + F_t``,
    ``a ← θ_t``.

    Args:
        before: ``fisher`` and ``anchor`` so far, name to tensor; None for none.
        fisher: This task's, by name.
        weights: The weights after this task, by name; those of ``fisher`` among them.
        decay: γ; None to add without decay.

    Returns:
        ``fisher`` and ``anchor``, on the CPU.
    """
    old = before or {"fisher": {}, "anchor": {}}
    made: dict[str, dict[str, Tensor]] = {"fisher": {}, "anchor": {}}
    for name in weights.keys() & (old["fisher"].keys() | fisher.keys()):
        weight = weights[name].detach().float().cpu()
        new = fisher[name].float().cpu() if name in fisher else torch.zeros_like(weight)
        past = grown_to(old["fisher"][name], weight) if name in old["fisher"] else torch.zeros_like(weight)
        anchor = grown_to(old["anchor"][name], weight, weight) if name in old["anchor"] else weight
        if decay is not None:
            made["fisher"][name], made["anchor"][name] = decay * past + new, weight.clone()
            continue
        whole = past + new
        share = torch.where(whole > 0, new / whole.clamp(min=torch.finfo(whole.dtype).tiny), 0.0)
        made["fisher"][name], made["anchor"][name] = whole, anchor + share * (weight - anchor)
    return {part: {name: tensors[name] for name in sorted(tensors)} for part, tensors in made.items()}


def penalty(
    weights: Mapping[str, Tensor], fisher: Mapping[str, Tensor], anchor: Mapping[str, Tensor], strength: float
) -> Tensor:
    """Give ``strength / 2 · Σ F (θ - a)²`` over all weights that have a Fisher information."""
    parts = [(fisher[name] * (weights[name].float() - anchor[name]) ** 2).sum() for name in fisher]
    return strength / 2 * torch.stack(parts).sum()
