"""The head contract: what a head needs, how it learns, how its output is read.

A :class:`Head` turns features into one output a task. A :class:`Task` is the head of a single task (a classifier, a
regression); a combinator such as ``multi_task`` is a head with other heads inside it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from zoo.contracts.features import Features
from zoo.contracts.masks import MaskCode
from zoo.contracts.needs import Needs
from zoo.contracts.settings import plain
from zoo.contracts.sharing import Shared
from zoo.errors import CapabilityError, ConfigError
from zoo.spec import BackboneSpec, HeadSpec
from zoo.strict import check_options, from_json

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

__all__ = ["Decoded", "Head", "HeadConfig", "HeadContext", "Label", "Needs", "Task", "TaskConfig", "zero_loss"]

Label = str | int | float | bool | tuple[str, ...] | Tensor | None
"""A raw label of one sample; None where it has none. A tensor is a mask: ``(H, W)`` pixel values."""


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
        return from_json(cls.Config, plain(spec.config), called=who)

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

    def grown(self, classes: Sequence[str]) -> HeadSpec:
        """Describe the same head with more classes behind its own; :meth:`zoo.Model.grow` builds it.

        Each tensor of the new head must begin with the old one in all dimensions. One that cannot grow refuses.
        """
        raise CapabilityError(f"The head {self.spec.name!r} ({self.spec.type}) cannot take new classes.")

    def may_miss(self) -> frozenset[str]:
        """Name the streams whose input a sample may lack, which then is ``Features.present``; none by default.

        A model takes such a sample only if every head that reads the stream says so.
        """
        return frozenset()

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

    @property
    def balances(self) -> bool:
        """Whether :meth:`balance` does something: here or in a head inside it."""
        return any(head.balances for head in self.inside())

    def balance(
        self, losses: Mapping[str, Tensor], targets: Mapping[str, Tensor], shared: Shared
    ) -> Mapping[str, Tensor]:
        """Weigh the tasks, in training; a head that does not lets those inside do so, itself a part of their trunk.

        Args:
            losses: Task name to loss, as :meth:`losses` gave it.
            targets: As for :meth:`losses`.
            shared: What the tasks may have in common below.

        Raises:
            ConfigError: If the way of balancing needs shared parameters, and there are none.
        """
        inside = list(self.inside())
        theirs = {id(parameter) for head in inside for parameter in head.parameters()}
        trunk = [p for p in self.parameters() if p.requires_grad and id(p) not in theirs]
        found = dict(losses)
        for head in inside:
            if head.balances:
                own = {name: losses[name] for name in head.tasks() if name in losses}
                found |= head.balance(own, targets, shared.under(trunk))
        return found

    def inside(self) -> Iterator[Head]:
        """Give the heads inside it, not those inside them."""
        modules = list(self.children())
        for module in modules:
            if isinstance(module, Head):
                yield module
            else:
                modules += module.children()


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
            return {name: zero_loss(outputs[name], *self.parameters())}
        return {name: self.config.weight * self.loss(outputs[name], targets[name])}

    def new_classes(self, labels: Sequence[Label]) -> list[str]:
        """Name the classes among labels that it does not know, in the order for :meth:`grown`; none by default."""
        return []

    @property
    def activation(self) -> Literal["softmax", "sigmoid"] | None:
        """How its output becomes probabilities: softmax over dimension 1, sigmoid of each element; None if it does not.

        What averages the outputs of several streams or models averages these probabilities.
        """
        return None

    @property
    def masks(self) -> MaskCode | None:
        """What its pixel values mean, where its labels are masks; None where they are values.

        A mask undergoes what is done to the picture of its row, so that the target of each pixel is its own.
        """
        return None

    def prepare(self, labels: Sequence[Label]) -> None:
        """Learn from the training labels what no gradient teaches: class weights, the scale of a target.

        Called once by ``zoo.fit`` before the first epoch. What is learnt must be kept in buffers. Masks are opened when
        they are asked for, one by one and in their own size.
        """
        return

    learns_features: ClassVar[bool] = False
    """Whether it learns from the features of the training rows themselves, by :meth:`learn` and :meth:`learnt`."""

    def learn(self, features: Features, target: Tensor) -> None:
        """Take in a batch of training rows: the features that :meth:`score` would get, without gradients.

        Where :attr:`learns_features` says so, ``zoo.fit`` calls it for all training rows before the first epoch, and
        again after each epoch, since what is below may have changed.

        Args:
            features: The features, in eval mode.
            target: As :meth:`encode` gave it; marks of missing labels among them.
        """
        return

    def learnt(self) -> None:
        """End a pass of :meth:`learn` over the training rows; the next one begins anew.

        What is learnt must be kept in buffers, of the same shape before and after.

        Raises:
            DataError: If the rows do not teach what it needs; nothing is trained then.
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

    @property
    def precision_factor(self) -> float:
        """Factor of its loss over the noise's variance in uncertainty weighting: 1 for classes, 1/2 for numbers."""
        return 1.0

    def constant(self, targets: Tensor) -> Tensor | None:
        """Give the output for any sample that known training targets alone say; for a metric where less is better."""
        return None

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


def zero_loss(output: Tensor, *more: Tensor) -> Tensor:
    """Give a loss of 0 that keeps the graph, so that distributed training sees every parameter used.

    Args:
        output: A task's output, of any shape; what is not finite in it counts as 0.
        more: Parameters of the loss itself, through which the output did not come.
    """
    return torch.stack([torch.nan_to_num(one).sum().to(output) for one in (output, *more)]).sum() * 0.0
