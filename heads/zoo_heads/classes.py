"""What tasks over named classes share: their settings, and all but what they read and how they score it."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from zoo.contracts.features import Features
from zoo.contracts.head import HeadContext, Label, Task, TaskConfig
from zoo.errors import ConfigError, DataError, UnknownName, nearest
from zoo.spec import HeadSpec
from zoo_heads.labels import LabelKind, MultipleLabels, SingleLabel, label_text

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

__all__ = [
    "ClassConfig",
    "ClassTask",
    "check_classes",
    "complete_classes",
    "in_order",
    "is_whole",
    "more_classes",
    "must_have_classes",
    "texts_of",
]


@dataclass(frozen=True, kw_only=True)
class ClassConfig(TaskConfig):
    """Settings of a task over named classes.

    Args:
        classes: Names of the classes, 2 or more (1 or more with ``multi_label``), in the order of the logits; None to
            take them from the training labels.
        multi_label: Whether a sample may have any number of labels.
        threshold: Probability from which a label is told, in ``(0, 1)``; for ``multi_label``.
        label_smoothing: Share of the target spread over all classes, in ``[0, 1)``.
        class_weights: ``balanced`` to weigh each class by the inverse of its frequency in the training labels, or one
            factor a class; None to weigh all alike. With ``multi_label`` they weigh the positives.
    """

    classes: tuple[str, ...] | None = None
    multi_label: bool = False
    threshold: float = 0.5
    label_smoothing: float = 0.0
    class_weights: Literal["balanced"] | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        TaskConfig.__post_init__(self)
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}.")
        if not 0 < self.threshold < 1:
            raise ConfigError(f"threshold must be in (0, 1), got {self.threshold}.")
        if isinstance(self.class_weights, tuple) and not all(weight > 0 for weight in self.class_weights):
            raise ConfigError(f"class_weights must be above 0, got {list(self.class_weights)}.")
        check_classes(self.classes, least=1 if self.multi_label else 2)
        if self.classes is None:
            return
        if isinstance(self.class_weights, tuple) and len(self.class_weights) != len(self.classes):
            raise ConfigError(
                f"class_weights must have one factor for each of the {len(self.classes)} classes, "
                f"got {len(self.class_weights)}."
            )


class ClassTask(Task):
    """A task over named classes: one label a sample, or any number of them. What it reads and how it scores is left.

    Shape:
        - output: ``(B, K)`` logits, in nats, before softmax (sigmoid with ``multi_label``).
        - target: ``(B,)`` int64, -100 where missing; with ``multi_label`` ``(B, K)`` float32, NaN rows where missing.

    Raises:
        ConfigError: If ``classes`` is not set when it is built.
    """

    def __init__(self, spec: HeadSpec, config: ClassConfig, context: HeadContext) -> None:
        super().__init__(spec, config, context)
        classes = must_have_classes(spec, config.classes)
        kind = MultipleLabels if config.multi_label else SingleLabel
        self.labels: LabelKind = kind(spec.name, classes)
        if config.class_weights is not None:
            given = config.class_weights if isinstance(config.class_weights, tuple) else (1.0,) * len(classes)
            self.register_buffer("class_weights", torch.tensor(given, dtype=torch.float32))

    @classmethod
    def complete(cls, spec: HeadSpec, columns: Mapping[str, Sequence[Label]], context: HeadContext) -> HeadSpec:
        """Take the classes from the labels, sorted; whole numbers by value."""
        config: ClassConfig = cls.read_config(spec)
        if config.classes is not None:
            return spec
        return complete_classes(spec, columns, target=config.target, several=config.multi_label)

    def prepare(self, labels: Sequence[Label]) -> None:
        """Learn the balanced class weights, if they are asked for."""
        if self.config.class_weights != "balanced":
            return
        target = self.labels.encode([label for label in labels if label is not None])
        count = len(self.labels.classes)
        if self.config.multi_label:
            positives = target.sum(dim=0).clamp(min=1)
            weights = (len(target) - positives) / positives
        else:
            weights = len(target) / (count * torch.bincount(target, minlength=count).clamp(min=1))
        self.get_buffer("class_weights").copy_(weights)

    def new_classes(self, labels: Sequence[Label]) -> list[str]:
        """Name the classes among labels that it does not know, sorted; whole numbers by value."""
        found, _ = texts_of(self.spec, {self.spec.name: labels}, None)
        return in_order(found - self.labels.index.keys())

    @abstractmethod
    def score(self, features: Features) -> Tensor:
        """Give the logits, ``(B, K)``."""

    def encode(self, labels: Sequence[Label]) -> Tensor:
        """Turn labels into targets; raises ``DataError`` for one that is none of the classes."""
        return self.labels.encode(labels)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Give the cross-entropy, in nats."""
        weights = self.get_buffer("class_weights") if self.config.class_weights is not None else None
        return self.labels.loss(output, target, weights, self.config.label_smoothing)

    @property
    def activation(self) -> Literal["softmax", "sigmoid"] | None:
        """Softmax over the classes; with ``multi_label`` a sigmoid each."""
        return "sigmoid" if self.config.multi_label else "softmax"

    def metrics(self) -> MetricCollection:
        """Make fresh metrics."""
        return self.labels.metrics(self.config.threshold)

    @property
    def best_metric(self) -> tuple[str, bool]:
        """Balanced accuracy, or mean average precision with ``multi_label``."""
        return self.labels.best_metric, True

    def update(self, metrics: MetricCollection, output: Tensor, target: Tensor) -> None:
        """Feed a batch to the metrics."""
        self.labels.update(metrics, output, target)

    def decode(self, output: Tensor) -> list[Any]:
        """Give a ``ClassPrediction`` or ``LabelsPrediction`` for each sample."""
        return self.labels.decode(output, self.config.threshold)

    def example_labels(self) -> list[Label]:
        """Give each class once, and a missing label."""
        return [*self.labels.classes, None]


def check_classes(classes: Sequence[str] | None, *, least: int) -> None:
    """Refuse classes that are too few or not all different; None is not known yet.

    Raises:
        ConfigError: If they are.
    """
    if classes is None:
        return
    if len(classes) < least:
        raise ConfigError(f"classes must be {least} or more, got {list(classes)}.")
    if len(set(classes)) < len(classes):
        twice = [name for name, count in Counter(classes).items() if count > 1]
        raise ConfigError(f"classes must differ, got {twice[0]!r} twice.")


def more_classes(spec: HeadSpec, config: ClassConfig, classes: Sequence[str]) -> HeadSpec:
    """Describe a head with further classes behind those that it has.

    Raises:
        ConfigError: If there are none, one is there already, or class weights have a factor for each class.
    """
    if isinstance(classes, str) or not classes or not all(isinstance(one, str) for one in classes):
        raise ConfigError(f"The head {spec.name!r} grows by a list of one or more new classes, got {classes!r}.")
    if isinstance(config.class_weights, tuple):
        raise ConfigError(
            f"The head {spec.name!r} has class_weights for its {len(config.class_weights)} classes, and cannot know "
            "those of new ones; build it with class_weights='balanced', or without."
        )
    every = [*must_have_classes(spec, config.classes), *classes]
    check_classes(every, least=1)
    return spec.with_config(classes=every)


def must_have_classes(spec: HeadSpec, classes: tuple[str, ...] | None) -> tuple[str, ...]:
    """Give the classes of a head that is built.

    Raises:
        ConfigError: If they are not known.
    """
    if classes is None:
        raise ConfigError(
            f"The head {spec.name!r} ({spec.type}) must know its classes: give classes=[…], or let "
            "zoo.infer_heads(data) read them from the training labels."
        )
    return classes


def texts_of(spec: HeadSpec, columns: Mapping[str, Sequence[Label]], target: str | None) -> tuple[set[str], bool]:
    """Give the different labels of a head's column as texts, and whether any sample has a list of them.

    Raises:
        UnknownName: If the column is not there.
        DataError: If a label is a number that is not whole.
    """
    column = target or spec.name
    if column not in columns:
        near = ", ".join(nearest(column, columns) or columns)
        raise UnknownName(f"The head {spec.name!r} finds no label column {column!r}; there are {near}.")
    found: set[str] = set()
    for label in columns[column]:
        if label is not None:
            found |= {label_text(one) for one in (label if isinstance(label, tuple) else (label,))}
    return found, any(isinstance(label, tuple) for label in columns[column])


def complete_classes(
    spec: HeadSpec, columns: Mapping[str, Sequence[Label]], *, target: str | None, several: bool | None
) -> HeadSpec:
    """Take a head's classes from its label column, sorted; whole numbers by value.

    Args:
        spec: The head.
        columns: Label column to raw labels.
        target: The column that it names; None for the one called like the head.
        several: Whether a sample may have several labels, which lists of labels switch on; None for a head that takes
            one label only.

    Raises:
        UnknownName: If the column is not there.
        DataError: If it has too few classes, a number that is not whole, or lists of labels for one label only.
    """
    column = target or spec.name
    found, lists = texts_of(spec, columns, target)
    if lists and several is None:
        raise DataError(f"The column {column!r} has lists of labels; the head {spec.name!r} ({spec.type}) takes one.")
    least = 1 if lists or several else 2
    if len(found) < least:
        raise DataError(f"The column {column!r} has {len(found)} class; a {spec.type} needs {least} or more.")
    return spec.with_config(classes=in_order(found), **({"multi_label": True} if lists else {}))


def in_order(classes: Iterable[str]) -> list[str]:
    """Sort classes; whole numbers by value, before all others."""
    return sorted(classes, key=lambda text: (not is_whole(text), int(text) if is_whole(text) else 0, text))


def is_whole(text: str) -> bool:
    """Say whether a text is a whole number."""
    return text.removeprefix("-").isdecimal()
