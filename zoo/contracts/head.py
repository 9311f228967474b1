"""The head contract: what a head needs, how it learns, how its output is read.

A :class:`Head` turns features into one output a task. A :class:`Task` is the head of a single task (a classifier, a
regression); a combinator such as ``multi_task`` is a head with other heads inside it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from zoo.contracts.features import Features
from zoo.errors import ConfigError
from zoo.spec import BackboneSpec, HeadSpec, check_options, from_json

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

__all__ = ["Decoded", "Head", "HeadConfig", "HeadContext", "Label", "Needs", "Task", "TaskConfig", "zero_loss"]

Label = str | int | float | bool | tuple[str, ...] | None
"""A raw label of one sample; None where it has none."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a head asks of one stream.

    Args:
        pooled: Whether it reads the pooled vector.
        tokens: Whether it reads tokens.
        reductions: Reductions of the maps that it reads, such as ``(8, 16, 32)``.
        embed: Whether it reads the projected vector of a dual-tower model.
    """

    pooled: bool = False
    tokens: bool = False
    reductions: tuple[int, ...] = ()
    embed: bool = False

    def __or__(self, other: Needs) -> Needs:
        """Ask for what either asks."""
        return Needs(
            pooled=self.pooled or other.pooled,
            tokens=self.tokens or other.tokens,
            reductions=tuple(sorted({*self.reductions, *other.reductions})),
            embed=self.embed or other.embed,
        )


@dataclass(frozen=True, slots=True)
class HeadContext:
    """The model around a head.

    Args:
        streams: Stream name to the spec of its backbone.
        lookup: Finds the class of a head type; combinators use it for the heads inside them.
    """

    streams: Mapping[str, BackboneSpec]
    lookup: Callable[[str], type[Head]]

    def build(self, spec: HeadSpec) -> Head:
        """Build a head.

        Raises:
            UnknownName: If its type or one of its settings is not known.
            ConfigError: If a setting's value cannot be used.
        """
        head = self.lookup(spec.type)
        return head(spec, head.read_config(spec), self)

    def needs(self, spec: HeadSpec) -> Mapping[str, Needs]:
        """Give what a head asks of each stream; raises as :meth:`build` does."""
        head = self.lookup(spec.type)
        return head.needs(spec, head.read_config(spec), self)


class Decoded(Protocol):
    """A prediction of one task for one sample, in the user's own words."""

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        ...


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """A head's settings; each head type adds its own fields. All of them are JSON."""


class Head(nn.Module, ABC):
    """Features in, one output a task out; it owns the losses of its tasks.

    Args:
        spec: Type, name and settings.
        config: The settings, checked.
        context: The model around it.
    """

    Config: ClassVar[type[HeadConfig]] = HeadConfig
    """The type of its settings."""
    summary: ClassVar[str] = ""
    """One line for ``zoo list --heads``."""

    def __init__(self, spec: HeadSpec, config: HeadConfig, context: HeadContext) -> None:
        super().__init__()
        self.spec = spec
        self.config: Any = config

    @classmethod
    def read_config(cls, spec: HeadSpec) -> Any:
        """Read the settings, strictly.

        Raises:
            UnknownName: If a setting is not known.
            ConfigError: If a value cannot be used.
        """
        who = f"The head {spec.name!r} ({spec.type})"
        check_options(who, spec.config, {f.name for f in fields(cls.Config)})
        try:
            return from_json(cls.Config, plain(spec.config))
        except ConfigError as error:
            raise ConfigError(f"{who}: {str(error).removeprefix(cls.Config.__name__ + ': ')}") from error

    @classmethod
    @abstractmethod
    def needs(cls, spec: HeadSpec, config: Any, context: HeadContext) -> Mapping[str, Needs]:
        """Say what it asks of each stream; called before any weights are loaded."""

    @classmethod
    def complete(cls, spec: HeadSpec, columns: Mapping[str, Sequence[Label]], context: HeadContext) -> HeadSpec:
        """Fill in the settings that follow from the training labels, such as the classes.

        Args:
            spec: The head as the user wrote it.
            columns: Label column to raw labels.
            context: The model around it.

        Raises:
            UnknownName: If its label column is not there.
            DataError: If the labels cannot be this head's.
        """
        return spec

    @abstractmethod
    def tasks(self) -> dict[str, Task]:
        """Give the tasks that have an output, by name: itself, or those of the heads inside it."""

    @abstractmethod
    def forward(self, features: Mapping[str, Features]) -> dict[str, Tensor]:
        """Give the outputs of a batch.

        Args:
            features: Stream name to features.

        Returns:
            Task name to output.
        """

    @abstractmethod
    def losses(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the loss of each task, weighted, so that their sum is the head's loss.

        Args:
            outputs: Task name to output, as :meth:`forward` gave it.
            targets: Task name to encoded target; a task without an entry has no labels in this batch.
        """


@dataclass(frozen=True, kw_only=True)
class TaskConfig(HeadConfig):
    """Settings that every task has.

    Args:
        stream: Stream that it reads; None for the only one.
        target: Label column; None for the one called like the head.
        weight: Factor of its loss, 0 or more.
    """

    stream: str | None = None
    target: str | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Check the weight."""
        if not self.weight >= 0:
            raise ConfigError(f"weight must be 0 or more, got {self.weight}.")


class Task(Head):
    """The head of one task: features to scores, with its loss, metrics and decoding.

    Labels may be partial: a sample without one adds nothing to loss or metrics, and a batch without any gives a loss of
    0 that is still connected to the parameters.
    """

    Config: ClassVar[type[HeadConfig]] = TaskConfig

    def __init__(self, spec: HeadSpec, config: TaskConfig, context: HeadContext) -> None:
        super().__init__(spec, config, context)
        self.stream = _stream_of(spec, config, context.streams)

    @classmethod
    def needs(cls, spec: HeadSpec, config: Any, context: HeadContext) -> Mapping[str, Needs]:
        """Ask its one stream for what it reads."""
        return {_stream_of(spec, config, context.streams): cls.reads(config)}

    @classmethod
    @abstractmethod
    def reads(cls, config: Any) -> Needs:
        """Say which features it reads of its stream."""

    @property
    def target(self) -> str:
        """Name of its label column."""
        return self.config.target or self.spec.name

    def tasks(self) -> dict[str, Task]:
        """Give itself."""
        return {self.spec.name: self}

    def forward(self, features: Mapping[str, Features]) -> dict[str, Tensor]:
        """Score the features of its stream."""
        return {self.spec.name: self.score(features[self.stream])}

    def losses(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give its loss times its weight."""
        name = self.spec.name
        if name not in targets:
            return {name: zero_loss(outputs[name])}
        return {name: self.config.weight * self.loss(outputs[name], targets[name])}

    def prepare(self, labels: Sequence[Label]) -> None:
        """Learn from the training labels what no gradient teaches: class weights, the scale of a target.

        Called once by ``zoo.fit`` before the first epoch. What is learnt must be kept in buffers.
        """
        return

    @abstractmethod
    def score(self, features: Features) -> Tensor:
        """Give the output of a batch, ``(B, …)``."""

    @abstractmethod
    def encode(self, labels: Sequence[Label]) -> Tensor:
        """Turn raw labels into targets; None becomes the task's mark for a missing label.

        Shape:
            - returns: ``(len(labels), …)``.

        Raises:
            DataError: If a label is none of this task's.
        """

    def known(self, target: Tensor) -> Tensor:
        """Say which samples have a label: those whose target is neither NaN anywhere nor -100.

        A task with another mark for a missing label answers for itself.

        Shape:
            - returns: ``(B,)``, bool.
        """
        marked = target.isnan() if target.is_floating_point() else target == -100
        return ~marked.flatten(1).any(dim=1) if marked.ndim > 1 else ~marked

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Give the mean loss over the samples that have a label; :func:`zero_loss` if none has."""

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Make fresh metrics."""

    @property
    @abstractmethod
    def best_metric(self) -> tuple[str, bool]:
        """Name of the metric by which the best epoch is chosen, and whether more is better."""

    @abstractmethod
    def update(self, metrics: MetricCollection, output: Tensor, target: Tensor) -> None:
        """Feed a batch to the metrics, leaving out samples without a label."""

    @abstractmethod
    def decode(self, output: Tensor) -> list[Decoded]:
        """Turn a batch of outputs into predictions in the user's own words."""

    @abstractmethod
    def example_labels(self) -> list[Label]:
        """Give a few valid labels, a missing one among them; the conformance kit trains on them."""


def _stream_of(spec: HeadSpec, config: TaskConfig, streams: Mapping[str, BackboneSpec]) -> str:
    known = ", ".join(streams)
    if config.stream is None and len(streams) == 1:
        return next(iter(streams))
    if config.stream is None:
        raise ConfigError(f"The head {spec.name!r} must say which stream it reads: stream=… of {known}.")
    if config.stream not in streams:
        raise ConfigError(f"The head {spec.name!r} reads the stream {config.stream!r}; the model has {known}.")
    return config.stream


def zero_loss(output: Tensor) -> Tensor:
    """Give a loss of 0 that keeps the graph, so that distributed training sees every parameter used.

    Args:
        output: A task's output, of any shape; what is not finite in it counts as 0.
    """
    return torch.nan_to_num(output).sum() * 0.0


def plain(value: Any) -> Any:
    """Turn tuples, mappings and nested specs into what JSON has.

    Raises:
        ConfigError: If something is not JSON.
    """
    if isinstance(value, HeadSpec):
        return value.flat()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise ConfigError(f"a setting must be JSON, got {type(value).__name__}.")
