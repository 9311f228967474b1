"""Multi-task: any number of heads on one backbone pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

from torch import Tensor

from zoo.contracts.features import Features
from zoo.contracts.head import Head, HeadConfig, HeadContext, Label, Needs, Task
from zoo.contracts.modules import ModuleMap
from zoo.contracts.sharing import Shared
from zoo.errors import ConfigError
from zoo.spec import HeadSpec
from zoo_heads.balancing import BALANCES, Balance
from zoo_heads.balancing.balance import BalanceSettings

__all__ = ["MultiTask", "MultiTaskConfig"]


@dataclass(frozen=True, kw_only=True)
class MultiTaskConfig(HeadConfig):
    """Settings of a multi-task head.

    Args:
        heads: The heads inside it, each as the dict that ``zoo.head`` takes; 1 or more, names unique.
        weights: Task name to a factor of its loss, on top of the task's own weight; 1 for a task that is not named.
        balance: How tasks are weighed in training: ``fixed`` weights; learnt ones by ``uncertainty`` or ``gradnorm``;
            or fixed ones and gradients without conflict, ``pcgrad``.
        alpha: Strength with which ``gradnorm`` holds back tasks that learn faster than others, 0 or more; None for 1.5.
        balance_speed: Learning rate of the weights of ``uncertainty`` and ``gradnorm`` over that of the head, above 0;
            None for 25.
    """

    heads: tuple[dict[str, Any], ...]
    weights: dict[str, float] | None = None
    balance: Literal["fixed", "uncertainty", "gradnorm", "pcgrad"] = "fixed"
    alpha: float | None = None
    balance_speed: float | None = None

    def __post_init__(self) -> None:
        """Check the number of heads and the weights."""
        if not self.heads:
            raise ConfigError("heads must be 1 or more, got none.")
        if any(not weight >= 0 for weight in (self.weights or {}).values()):
            raise ConfigError(f"weights must be 0 or more, got {self.weights}.")
        if self.weights and self.learns_weights:
            raise ConfigError(f"weights must be left out where balance is {self.balance!r}, which learns them.")
        if self.alpha is not None and not (isfinite(self.alpha) and self.alpha >= 0):
            raise ConfigError(f"alpha must be a number, 0 or more, got {self.alpha}.")
        if self.alpha is not None and self.balance != "gradnorm":
            raise ConfigError(f"alpha is of balance='gradnorm'; leave it out where balance is {self.balance!r}.")
        if self.balance_speed is not None and not (isfinite(self.balance_speed) and self.balance_speed > 0):
            raise ConfigError(f"balance_speed must be a number above 0, got {self.balance_speed}.")
        if self.balance_speed is not None and not self.learns_weights:
            raise ConfigError(f"balance_speed must be left out where balance is {self.balance!r}: nothing is learnt.")

    @property
    def learns_weights(self) -> bool:
        """Whether the weights are learnt."""
        return self.balance in BALANCES and BALANCES[self.balance].learns_weights


class MultiTask(Head):
    """Several tasks on the same features; their losses are added, with fixed weights or balanced in training.

    A sample may miss the target of any task: it adds nothing there, and a batch without any target of a task gives
    that task a loss of 0 that is still connected to its parameters. In eval mode the losses are those of fixed weights,
    so that epochs can be compared.

    Shape:
        - output: task name to what that task gives.
    """

    Config = MultiTaskConfig
    summary = "Any number of heads on one backbone pass; weights fixed, by uncertainty, GradNorm or PCGrad"

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
        readers = [(stream, head) for head in inner for stream in context.needs(head.spec)]
        needed = {stream for stream, head in readers if stream not in head.may_miss()}
        self._may_miss = frozenset(stream for stream, _ in readers) - needed
        self.balancing: Balance | None = self._balancing(config)

    def _balancing(self, config: MultiTaskConfig) -> Balance | None:
        """Make what balances the tasks; None for fixed weights."""
        who = f"The head {self.spec.name!r} (multi_task)"
        for head in self.inner.values():
            if head.balances:
                raise ConfigError(f"{who} has {head.spec.name!r} inside, which balances; set balance on the outer one.")
        if config.balance == "fixed":
            return None
        tasks = self.tasks()
        if len(tasks) < 2:
            raise ConfigError(f"{who} balances tasks, and must have 2 or more for that; it has {', '.join(tasks)}.")
        for name, task in tasks.items():
            weight = getattr(task.config, "weight", 1.0)
            if config.learns_weights and weight != 1:
                raise ConfigError(f"{who} learns the tasks' weights, and {name!r} has weight {weight}; leave it out.")
        for head in self.inner.values():
            if config.learns_weights and getattr(head.config, "weights", None):
                raise ConfigError(f"{who} learns the tasks' weights, and {head.spec.name!r} sets them; leave them out.")
        factors = {name: task.precision_factor for name, task in tasks.items()}
        alpha = 1.5 if config.alpha is None else config.alpha
        return BALANCES[config.balance](BalanceSettings(who, factors, alpha, config.balance_speed or 25.0))

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

    def may_miss(self) -> frozenset[str]:
        """Name the streams that every head inside which reads them may miss."""
        return self._may_miss

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

    @property
    def balances(self) -> bool:
        """Whether ``balance`` is another than ``fixed``."""
        return self.balancing is not None

    def balance(
        self, losses: Mapping[str, Tensor], targets: Mapping[str, Tensor], shared: Shared
    ) -> Mapping[str, Tensor]:
        """Weigh the tasks as ``balance`` says; those without a target in the batch are left out."""
        if self.balancing is None:
            return losses
        tasks = self.tasks()
        present = {name for name, target in targets.items() if name in tasks and bool(tasks[name].known(target).any())}
        inside = [parameter for parameter in self.inner.parameters() if parameter.requires_grad]
        return self.balancing(losses, present, shared.under(inside))

    def task_weights(self) -> dict[str, float]:
        """Give the factor of each task's loss as it is now in training, on top of the task's own weight."""
        fixed: Mapping[str, float] = self.config.weights or {}
        learnt = self.balancing.weights() if self.balancing is not None else {}
        return {name: fixed.get(name, 1.0) * learnt.get(name, 1.0) for name in self.tasks()}
