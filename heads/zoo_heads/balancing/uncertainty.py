"""Uncertainty weighting: the noisier a task, the less it counts."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from zoo.contracts.head import zero_loss
from zoo.contracts.sharing import Shared
from zoo_heads.balancing.balance import Balance, BalanceSettings

__all__ = ["Uncertainty"]


class Uncertainty(Balance):
    """Learns a log-variance ``s`` a task: ``Σ c·exp(-s)·L + s/2``, ``c`` being 1 for classes and 1/2 for numbers.

    A task without labels in the batch adds neither term.

    Args:
        settings: What it is told.

    Source:
        Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and
        Semantics", 2018, arXiv:1705.07115, equation 10, with ``s = log σ²`` as the paper advises. Ours keeps ``s /
        speed`` and gives it the gradient of ``s``: with any optimizer the learning rate of ``s`` is ``speed`` times the
        head's.
    """

    learns_weights = True

    def __init__(self, settings: BalanceSettings) -> None:
        super().__init__(settings)
        self.slow = nn.Parameter(torch.zeros(len(self.names)))

    def log_variances(self) -> Tensor:
        """Give ``s`` of each task, ``(T,)``, in nats; its gradient is that of what is kept."""
        kept = self.slow.to(torch.promote_types(self.slow.dtype, torch.float32))
        return kept + (self.settings.speed - 1) * kept.detach()

    def forward(self, losses: Mapping[str, Tensor], present: Collection[str], shared: Shared) -> dict[str, Tensor]:
        """Weigh the losses, and add the price of variance to each."""
        found = {}
        for (name, factor), s in zip(self.settings.factors.items(), self.log_variances(), strict=True):
            seen = name in present
            found[name] = factor * torch.exp(-s) * losses[name] + s / 2 if seen else losses[name] + zero_loss(s)
        return found

    def weights(self) -> dict[str, float]:
        """Give ``c·exp(-s)`` of each task."""
        variances = self.log_variances().tolist()
        factors = self.settings.factors.items()
        return {name: c * torch.tensor(-s).exp().item() for (name, c), s in zip(factors, variances, strict=True)}
