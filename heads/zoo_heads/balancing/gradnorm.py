"""GradNorm: tasks that learn too fast get smaller gradients, those that lag larger ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from zoo.contracts.sharing import Shared
from zoo_heads.balancing.balance import Balance, BalanceSettings
from zoo_heads.balancing.steering import last_layers, meeting, steer, task_gradients

__all__ = ["GradNorm", "pull"]


class GradNorm(Balance):
    """Learns a weight ``w`` a task so that ``‖∇_W w·L‖`` comes to ``mean · r^alpha`` for all.

    ``W`` are the last shared weights; ``r`` is what is left of a task's first loss, over the mean of that of all. The
    weights sum to the number of tasks. The gradient of the weights' own loss comes with the tasks' losses, its value
    does not. A task without labels in the batch, or that does not read ``W``, is left out: its weight gets no gradient.

    Args:
        settings: What it is told.

    Source:
        Chen et al., "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks", 2018,
        arXiv:1711.02257, algorithm 1. The paper steps in ``w`` and divides by the sum after each step; ours steps in
        ``log w`` and divides whenever weights are used, so that none becomes negative and any loop will do. The
        division is no part of the gradient in either. Our loss of the weights is the paper's over the mean norm, so
        that its size does not depend on the tasks'. What is kept is ``log(w) / speed``, which gets the gradient of
        ``log w``: with any optimizer its learning rate is ``speed`` times the head's.
    """

    learns_weights = True

    def __init__(self, settings: BalanceSettings) -> None:
        super().__init__(settings)
        self.slow = nn.Parameter(torch.zeros(len(self.names)))
        self.register_buffer("first", torch.zeros(len(self.names)))  # 0 until a task had labels

    def current(self) -> Tensor:
        """Give ``w`` of each task, ``(T,)``, without gradient: the exponentials, divided so that they sum to ``T``."""
        logs = self.slow.detach().to(torch.promote_types(self.slow.dtype, torch.float32)) * self.settings.speed
        return len(self.names) * logs.softmax(dim=0)

    def forward(self, losses: Mapping[str, Tensor], present: Collection[str], shared: Shared) -> dict[str, Tensor]:
        """Weigh the losses, and steer the weights."""
        met = meeting(self.settings.who, losses.values(), shared)
        weights = self.current()
        found = {name: weight * losses[name] for name, weight in zip(self.names, weights, strict=True)}
        change = torch.zeros_like(weights)
        here = [at for at, name in enumerate(self.names) if name in present and losses[name].requires_grad]
        if here:
            values = torch.stack([losses[self.names[at]].detach() for at in here]).to(weights.dtype)
            relative = values / self._first(here, values)
            layers = last_layers(met)
            if len(here) > 1 and layers:
                norms = task_gradients([losses[self.names[at]] for at in here], layers).norm(dim=1)
                felt = [row for row, norm in enumerate(norms.tolist()) if norm != 0]
                change[[here[row] for row in felt]] = pull(
                    (weights[here] * norms.to(weights.dtype))[felt], relative[felt], self.settings.alpha
                )
        lead = self.names[0]
        return found | {lead: steer(found[lead], [(self.slow, change)])}

    def _first(self, here: list[int], values: Tensor) -> Tensor:
        """Give the first losses of some tasks, taking note of those that had none until now."""
        first = self.get_buffer("first")
        with torch.no_grad():
            first[here] = torch.where(first[here] > 0, first[here], values.clamp(min=0).to(first.dtype))
        known = first[here].to(values.dtype)
        return torch.where(known > 0, known, torch.ones_like(known))

    def weights(self) -> dict[str, float]:
        """Give ``w`` of each task."""
        return dict(zip(self.names, self.current().tolist(), strict=True))


def pull(norms: Tensor, relative: Tensor, alpha: float) -> Tensor:
    """Give the gradient of GradNorm's loss by ``log w``, the targets held constant.

    The loss is ``Σ |norm / mean(norm) - r^alpha|`` with ``r = relative / mean(relative)``.

    Args:
        norms: Norm of each task's weighted gradient, which is ``w`` times one that does not depend on ``w``.
        relative: Each task's loss over its first one.
        alpha: Strength of the restoring force.

    Shape:
        - norms, relative: ``(T,)``, float.
        - returns: ``(T,)``; zeros if a norm is not finite.
    """
    falls = relative.clamp(min=0)
    rates = torch.where(falls.mean() > 0, falls / falls.mean(), torch.ones_like(falls))
    step = torch.sign(norms - norms.mean() * rates**alpha) * norms / norms.mean()
    return torch.where(step.isfinite().all(), step, torch.zeros_like(step))
