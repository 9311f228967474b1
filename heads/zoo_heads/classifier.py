"""The classifier: one label a sample, or any number of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from zoo.contracts.features import Features
from zoo.contracts.head import HeadContext, Label, Needs, Task, TaskConfig
from zoo.errors import CapabilityError, ConfigError, DataError, UnknownName, nearest
from zoo.spec import HeadSpec
from zoo_heads.labels import LabelKind, MultipleLabels, SingleLabel, label_text
from zoo_heads.layers import check_layers, projection

__all__ = ["Classifier", "ClassifierConfig"]


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(TaskConfig):
    """Settings of a classifier.

    Args:
        classes: Names of the classes, 2 or more (1 or more with ``multi_label``), in the order of the logits; None to
            take them from the training labels.
        multi_label: Whether a sample may have any number of labels.
        threshold: Probability from which a label is told, in ``(0, 1)``; for ``multi_label``.
        label_smoothing: Share of the target spread over all classes, in ``[0, 1)``.
        class_weights: ``balanced`` to weigh each class by the inverse of its frequency in the training labels, or one
            factor a class; None to weigh all alike. With ``multi_label`` they weigh the positives.
        norm: Whether to put a LayerNorm in front; it lets a head on frozen features learn several times faster.
        hidden: Width of a hidden layer with GELU; None for a linear classifier.
        dropout: Chance that a channel is zeroed in training, in ``[0, 1)``.
    """

    classes: tuple[str, ...] | None = None
    multi_label: bool = False
    threshold: float = 0.5
    label_smoothing: float = 0.0
    class_weights: Literal["balanced"] | tuple[float, ...] | None = None
    norm: bool = False
    hidden: int | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        TaskConfig.__post_init__(self)
        check_layers(self)
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}.")
        if not 0 < self.threshold < 1:
            raise ConfigError(f"threshold must be in (0, 1), got {self.threshold}.")
        if isinstance(self.class_weights, tuple) and not all(weight > 0 for weight in self.class_weights):
            raise ConfigError(f"class_weights must be above 0, got {list(self.class_weights)}.")
        if self.classes is None:
            return
        least = 1 if self.multi_label else 2
        if len(self.classes) < least:
            raise ConfigError(f"classes must be {least} or more, got {list(self.classes)}.")
        if len(set(self.classes)) < len(self.classes):
            twice = [name for name, count in Counter(self.classes).items() if count > 1]
            raise ConfigError(f"classes must differ, got {twice[0]!r} twice.")
        if isinstance(self.class_weights, tuple) and len(self.class_weights) != len(self.classes):
            raise ConfigError(
                f"class_weights must have one factor for each of the {len(self.classes)} classes, "
                f"got {len(self.class_weights)}."
            )


class Classifier(Task):
    """A linear classifier or small perceptron on the pooled vector.

    Shape:
        - pooled: ``(B, pooled_dim)``, any float dtype.
        - output: ``(B, K)`` logits, in nats, before softmax (sigmoid with ``multi_label``).
        - target: ``(B,)`` int64, -100 where missing; with ``multi_label`` ``(B, K)`` float32, NaN rows where missing.

    Raises:
        ConfigError: If ``classes`` is not set when it is built.
    """

    Config = ClassifierConfig
    summary = "One label a sample, or any number (multi_label): cross-entropy on the pooled vector"

    def __init__(self, spec: HeadSpec, config: ClassifierConfig, context: HeadContext) -> None:
        super().__init__(spec, config, context)
        if config.classes is None:
            raise ConfigError(
                f"The head {spec.name!r} (classifier) must know its classes: give classes=[…], or let "
                "zoo.infer_heads(data) read them from the training labels."
            )
        kind = MultipleLabels if config.multi_label else SingleLabel
        self.labels: LabelKind = kind(spec.name, config.classes)
        width = context.streams[self.stream].pooled_dim
        count = len(config.classes)
        self.layers = projection(width, count, norm=config.norm, hidden=config.hidden, dropout=config.dropout)
        if config.class_weights is not None:
            given = config.class_weights if isinstance(config.class_weights, tuple) else (1.0,) * count
            self.register_buffer("class_weights", torch.tensor(given, dtype=torch.float32))

    @classmethod
    def reads(cls, config: ClassifierConfig) -> Needs:
        """Read the pooled vector."""
        return Needs(pooled=True)

    @classmethod
    def complete(cls, spec: HeadSpec, columns: Mapping[str, Sequence[Label]], context: HeadContext) -> HeadSpec:
        """Take the classes from the labels, sorted; whole numbers by value."""
        config: ClassifierConfig = cls.read_config(spec)
        if config.classes is not None:
            return spec
        column = config.target or spec.name
        if column not in columns:
            near = ", ".join(nearest(column, columns) or columns)
            raise UnknownName(f"The head {spec.name!r} finds no label column {column!r}; there are {near}.")
        found: set[str] = set()
        for label in columns[column]:
            if label is not None:
                found |= {label_text(one) for one in (label if isinstance(label, tuple) else (label,))}
        several = any(isinstance(label, tuple) for label in columns[column])
        least = 1 if several or config.multi_label else 2
        if len(found) < least:
            raise DataError(f"The column {column!r} has {len(found)} class; a classifier needs {least} or more.")
        classes = sorted(found, key=lambda text: (not _is_whole(text), int(text) if _is_whole(text) else 0, text))
        return spec.with_config(classes=classes, **({"multi_label": True} if several else {}))

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

    def score(self, features: Features) -> Tensor:
        """Give the logits."""
        if features.pooled is None:
            raise CapabilityError(f"The head {self.spec.name!r} needs the pooled vector, and it was not computed.")
        return self.layers(features.pooled)

    def encode(self, labels: Sequence[Label]) -> Tensor:
        """Turn labels into targets; raises ``DataError`` for one that is none of the classes."""
        return self.labels.encode(labels)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Give the cross-entropy, in nats."""
        weights = self.get_buffer("class_weights") if self.config.class_weights is not None else None
        return self.labels.loss(output, target, weights, self.config.label_smoothing)

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


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal()
