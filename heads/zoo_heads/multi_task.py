"""Multi-task: any number of heads on one backbone pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from zoo.contracts.features import Features
from zoo.contracts.head import Head, HeadConfig, HeadContext, Label, Needs, Task
from zoo.contracts.modules import ModuleMap
from zoo.errors import ConfigError
from zoo.spec import HeadSpec

__all__ = ["MultiTask", "MultiTaskConfig"]


@dataclass(frozen=True, kw_only=True)
class MultiTaskConfig(HeadConfig):
    """Settings of a multi-task head.

    Args:
        heads: The heads inside it, each as the dict that ``zoo.head`` takes; 1 or more, names unique.
        weights: Task name to a factor of its loss, on top of the task's own weight; 1 for a task that is not named.
    """

    heads: tuple[dict[str, Any], ...]
    weights: dict[str, float] | None = None

    def __post_init__(self) -> None:
        """Check the number of heads and the weights."""
        if not self.heads:
            raise ConfigError("heads must be 1 or more, got none.")
        if any(not weight >= 0 for weight in (self.weights or {}).values()):
            raise ConfigError(f"weights must be 0 or more, got {self.weights}.")


class MultiTask(Head):
    """Several tasks on the same features; their losses are added with fixed weights.

    A sample may miss the target of any task: it adds nothing there, and a batch without any target of a task gives
    that task a loss of 0 that is still connected to its parameters.

    Shape:
        - output: task name to what that task gives.
    """

    Config = MultiTaskConfig
    summary = "Any number of heads on one backbone pass, losses added with fixed weights"

    def __init__(self, spec: HeadSpec, config: MultiTaskConfig, context: HeadContext) -> None:
        super().__init__(spec, config, context)
        inner = [context.build(HeadSpec.of(head)) for head in config.heads]
        names = [name for head in inner for name in head.tasks()]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"The head {spec.name!r} (multi_task) has two tasks called {name!r}.")
        heads = [head.spec.name for head in inner]
        for name in heads:
            if heads.count(name) > 1:
                raise ConfigError(f"The head {spec.name!r} (multi_task) has two heads called {name!r}.")
        for name in config.weights or {}:
            if name not in names:
                raise ConfigError(f"The head {spec.name!r} (multi_task) weighs {name!r}; its tasks are {names}.")
        self.inner: ModuleMap[Head] = ModuleMap({head.spec.name: head for head in inner})

    @classmethod
    def needs(cls, spec: HeadSpec, config: MultiTaskConfig, context: HeadContext) -> Mapping[str, Needs]:
        """Ask for all that the heads inside ask."""
        together: dict[str, Needs] = {}
        for head in config.heads:
            for stream, needs in context.needs(HeadSpec.of(head)).items():
                together[stream] = together.get(stream, Needs()) | needs
        return together

    @classmethod
    def complete(cls, spec: HeadSpec, columns: Mapping[str, Sequence[Label]], context: HeadContext) -> HeadSpec:
        """Complete the heads inside."""
        config: MultiTaskConfig = cls.read_config(spec)
        inner = [HeadSpec.of(head) for head in config.heads]
        done = [context.lookup(head.type).complete(head, columns, context).flat() for head in inner]
        return spec.with_config(heads=done)

    def tasks(self) -> dict[str, Task]:
        """Give the tasks of the heads inside."""
        return {name: task for head in self.inner.values() for name, task in head.tasks().items()}

    def forward(self, features: Mapping[str, Features]) -> dict[str, Tensor]:
        """Give the outputs of all heads inside."""
        return {name: output for head in self.inner.values() for name, output in head(features).items()}

    def losses(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the tasks' losses, times the fixed weights."""
        weights: Mapping[str, float] = self.config.weights or {}
        return {
            name: loss * weights.get(name, 1.0)
            for head in self.inner.values()
            for name, loss in head.losses(outputs, targets).items()
        }
