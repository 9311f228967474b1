"""What every way of balancing is: task losses in, task losses out, whose sum any training loop can go down."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from zoo.contracts.sharing import Shared

__all__ = ["Balance", "BalanceSettings"]


@dataclass(frozen=True, slots=True)
class BalanceSettings:
    """What a way of balancing may be told.

    Args:
        who: The head, as errors name it.
        factors: Task name to its ``precision_factor``, in the order of the tasks.
        alpha: Strength of GradNorm's restoring force, 0 or more.
        speed: Learning rate of the weights over that of the head, above 0.
    """

    who: str
    factors: Mapping[str, float]
    alpha: float
    speed: float


class Balance(nn.Module, ABC):
    """Weighs tasks; what it learns are vectors, which no optimizer of zoo decays.

    Args:
        settings: What it is told.
    """

    learns_weights: ClassVar[bool]
    """Whether it learns the weights, so that fixed ones would be learnt away."""

    def __init__(self, settings: BalanceSettings) -> None:
        super().__init__()
        self.settings = settings
        self.names = list(settings.factors)

    @abstractmethod
    def forward(self, losses: Mapping[str, Tensor], present: Collection[str], shared: Shared) -> dict[str, Tensor]:
        """Give the losses to sum.

        Args:
            losses: Task name to loss; that of a task without labels is 0 and connected.
            present: The tasks that have labels in this batch.
            shared: What the tasks may have in common.

        Raises:
            ConfigError: If it needs shared parameters, and there are none.
        """

    @abstractmethod
    def weights(self) -> dict[str, float]:
        """Give the factor of each task's loss as it is now."""
