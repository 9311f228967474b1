"""What can be measured on data: a model, or several as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from zoo.contracts.head import Task
from zoo.data import Preparer

__all__ = ["Predictor"]


class Predictor(Protocol):
    """Takes rows of samples and gives the outputs of its tasks: ``zoo.Model`` and ``zoo.Ensemble`` do."""

    training: bool

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs."""
        ...

    @property
    def modalities(self) -> dict[str, str]:
        """Input name to what its samples are."""
        ...

    def preparers(self) -> dict[str, Preparer]:
        """Give the functions from samples to what a call takes, by key."""
        ...

    def tasks(self) -> dict[str, Task]:
        """Give the tasks by name."""
        ...

    def losses(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the loss of every task."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Set the mode."""
        ...

    def eval(self) -> Any:
        """Set the mode in which nothing is learnt."""
        ...

    def to(self, device: Any) -> Any:
        """Move it to a device."""
        ...

    def __call__(self, inputs: Any) -> Any:
        """Give task name to output."""
        ...
