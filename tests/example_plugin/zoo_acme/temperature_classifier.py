"""A classifier whose probabilities are softened or sharpened by a temperature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from zoo import (
    CapabilityError,
    ConfigError,
    DataError,
    Decoded,
    Features,
    HeadContext,
    HeadSpec,
    Label,
    Needs,
    Task,
    TaskConfig,
    UnknownName,
    zero_loss,
)

__all__ = ["ClassChances", "TemperatureClassifier", "TemperatureClassifierConfig"]

MISSING = -100
"""Target of a sample without a label."""


@dataclass(frozen=True, slots=True)
class ClassChances:
    """The most likely class of a sample, and the chance of every class.

    Args:
        label: The most likely class.
        probability: Its probability.
        probabilities: Class to probability, in the order of the classes.
    """

    label: str
    probability: float
    probabilities: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return {"label": self.label, "probability": self.probability, "probabilities": self.probabilities}


@dataclass(frozen=True, kw_only=True)
class TemperatureClassifierConfig(TaskConfig):
    """Settings of a temperature classifier.

    Args:
        classes: Names of the classes, 2 or more, in the order of the logits; None to take them from the training
            labels.
        temperature: What the logits are divided by before the softmax of a prediction, above 0: above 1 softens the
            probabilities, below 1 sharpens them. Training does not see it.
    """

    classes: tuple[str, ...] | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the values."""
        TaskConfig.__post_init__(self)
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be above 0, got {self.temperature}.")
        if self.classes is not None and len(set(self.classes)) < max(2, len(self.classes)):
            raise ConfigError(f"classes must be 2 or more different names, got {list(self.classes)}.")


class TemperatureClassifier(Task):
    """A linear classifier on the pooled vector, told at a temperature.

    Shape:
        - pooled: ``(B, pooled_dim)``, any float dtype.
        - output: ``(B, K)`` logits, in nats, before the temperature and the softmax.
        - target: ``(B,)`` int64, -100 where missing.

    Raises:
        ConfigError: If ``classes`` is not set when it is built.

    Source:
        Guo et al., "On Calibration of Modern Neural Networks", 2017, arXiv:1706.04599. There the temperature is fitted
        on validation data; here it is a setting.
    """

    Config = TemperatureClassifierConfig
    summary = "One label a sample, its probabilities softened or sharpened by a temperature"

    def __init__(self, spec: HeadSpec, config: TemperatureClassifierConfig, context: HeadContext) -> None:
        super().__init__(spec, config, context)
        if config.classes is None:
            raise ConfigError(f"The head {spec.name!r} (temperature_classifier) must know its classes: classes=[…].")
        self.classes = config.classes
        self.linear = nn.Linear(context.streams[self.stream].pooled_dim, len(self.classes))

    @classmethod
    def reads(cls, config: TemperatureClassifierConfig) -> Needs:
        """Read the pooled vector."""
        return Needs(pooled=True)

    @classmethod
    def complete(cls, spec: HeadSpec, columns: Mapping[str, Sequence[Label]], context: HeadContext) -> HeadSpec:
        """Take the classes from the training labels, sorted."""
        config: TemperatureClassifierConfig = cls.read_config(spec)
        if config.classes is not None:
            return spec
        column = config.target or spec.name
        if column not in columns:
            known = ", ".join(columns)
            raise UnknownName(f"The head {spec.name!r} finds no label column {column!r}; there are {known}.")
        return spec.with_config(classes=sorted({str(label) for label in columns[column] if label is not None}))

    def score(self, features: Features) -> Tensor:
        """Give the logits."""
        if features.pooled is None:
            raise CapabilityError(f"The head {self.spec.name!r} needs the pooled vector, and it was not computed.")
        logits: Tensor = self.linear(features.pooled)
        return logits

    def encode(self, labels: Sequence[Label]) -> Tensor:
        """Turn labels into class indices."""
        return torch.tensor([MISSING if label is None else self._index(str(label)) for label in labels])

    def _index(self, label: str) -> int:
        if label not in self.classes:
            known = ", ".join(self.classes)
            raise DataError(f"The head {self.spec.name!r} knows no class {label!r}; its classes are {known}.")
        return self.classes.index(label)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Give the cross-entropy over the samples that have a label, in nats."""
        known = target != MISSING
        if not bool(known.any()):
            return zero_loss(output)
        return F.cross_entropy(output[known], target[known])

    def metrics(self) -> MetricCollection:
        """Make the share of samples whose most likely class is the right one."""
        return MetricCollection({"accuracy": MulticlassAccuracy(len(self.classes), average="micro")})

    @property
    def best_metric(self) -> tuple[str, bool]:
        """Accuracy; more is better."""
        return "accuracy", True

    def update(self, metrics: MetricCollection, output: Tensor, target: Tensor) -> None:
        """Feed the samples that have a label."""
        known = target != MISSING
        if bool(known.any()):
            metrics.update(output[known], target[known])

    def decode(self, output: Tensor) -> list[Decoded]:
        """Give a ``ClassChances`` for each sample."""
        told: list[Decoded] = []
        for row in (output.float() / self.config.temperature).softmax(dim=-1).tolist():
            chances = dict(zip(self.classes, row, strict=True))
            best = max(chances, key=chances.__getitem__)
            told.append(ClassChances(best, chances[best], chances))
        return told

    def example_labels(self) -> list[Label]:
        """Give each class once, and a missing label."""
        return [*self.classes, None]
