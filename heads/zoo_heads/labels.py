"""Labels of a classifier: one a sample, or any number; each kind knows its loss, metrics and decoding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.contracts.head import Label, zero_loss
from zoo.errors import DataError, nearest

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

__all__ = ["ClassPrediction", "LabelKind", "LabelsPrediction", "MultipleLabels", "SingleLabel", "label_text"]

MISSING = -100
"""Target of a sample without a label; the index that torch's losses ignore."""


@dataclass(frozen=True, slots=True)
class ClassPrediction:
    """The most likely class of a sample.

    Args:
        label: Its name.
        probability: Its probability.
        probabilities: Class to probability, in the order of the classes.
    """

    label: str
    probability: float
    probabilities: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return {"label": self.label, "probability": self.probability, "probabilities": self.probabilities}


@dataclass(frozen=True, slots=True)
class LabelsPrediction:
    """The labels of a sample, any number of them.

    Args:
        labels: Those whose probability reaches the threshold.
        probabilities: Class to probability, in the order of the classes.
    """

    labels: tuple[str, ...]
    probabilities: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return {"labels": list(self.labels), "probabilities": self.probabilities}


def label_text(label: Label) -> str:
    """Write a raw label as the text that classes are named by.

    Raises:
        DataError: If it is a number that is not whole.
    """
    if isinstance(label, bool):
        return "true" if label else "false"
    if isinstance(label, float):
        if not label.is_integer():
            raise DataError(f"A class must be text or a whole number, got {label}; use a regression head.")
        return str(int(label))
    return str(label)


class LabelKind(ABC):
    """How the labels of a classifier are read, learnt and told.

    Args:
        who: The head's name, for messages.
        classes: The classes, in the order of the logits.
    """

    def __init__(self, who: str, classes: Sequence[str]) -> None:
        self.who = who
        self.classes = tuple(classes)
        self.index = {name: i for i, name in enumerate(classes)}

    def find(self, label: Label) -> int:
        """Give the index of a label.

        Raises:
            DataError: If it is none of the classes.
        """
        text = label_text(label)
        if text not in self.index:
            near = ", ".join(nearest(text, self.classes) or self.classes[:8])
            raise DataError(
                f"The head {self.who!r} knows no class {text!r}; its classes are {near}: correct the label, or add the "
                "class with model.grow."
            )
        return self.index[text]

    @abstractmethod
    def encode(self, labels: Sequence[Label]) -> Tensor:
        """Turn raw labels into targets."""

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
        """Give the mean loss over what has a label."""

    @abstractmethod
    def metrics(self, threshold: float) -> MetricCollection:
        """Make fresh metrics."""

    @abstractmethod
    def update(self, metrics: MetricCollection, output: Tensor, target: Tensor) -> None:
        """Feed a batch to the metrics."""

    @abstractmethod
    def decode(self, output: Tensor, threshold: float) -> list[Any]:
        """Turn logits into predictions."""

    @property
    @abstractmethod
    def best_metric(self) -> str:
        """The metric by which the best epoch is chosen; more is better."""


class SingleLabel(LabelKind):
    """Exactly one class a sample: softmax and cross-entropy. Targets: ``(B,)`` int64, -100 where missing."""

    best_metric = "balanced_accuracy"

    def encode(self, labels: Sequence[Label]) -> Tensor:
        """Turn labels into class indices."""
        for label in labels:
            if isinstance(label, tuple):
                raise DataError(f"The head {self.who!r} takes one label a sample, got {label}; set multi_label=True.")
        return torch.tensor([MISSING if label is None else self.find(label) for label in labels], dtype=torch.int64)

    def loss(self, output: Tensor, target: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
        """Give the cross-entropy, in nats."""
        if bool((target == MISSING).all()):
            return zero_loss(output)
        return F.cross_entropy(output, target, weight=weights, label_smoothing=smoothing, ignore_index=MISSING)

    def metrics(self, threshold: float) -> MetricCollection:
        """Make accuracy, balanced accuracy (mean recall of the classes) and macro F1."""
        from torchmetrics import MetricCollection
        from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

        from zoo_heads.metrics import BalancedAccuracy

        count = len(self.classes)
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(count, average="micro"),
                "balanced_accuracy": BalancedAccuracy(count),
                "f1": MulticlassF1Score(count, average="macro"),
            }
        )

    def update(self, metrics: MetricCollection, output: Tensor, target: Tensor) -> None:
        """Feed the samples that have a label."""
        known = target != MISSING
        if bool(known.any()):
            metrics.update(output[known], target[known])

    def decode(self, output: Tensor, threshold: float) -> list[Any]:
        """Give the most likely class of each sample."""
        predictions = []
        for row in output.float().softmax(dim=-1).tolist():
            best = max(range(len(row)), key=row.__getitem__)
            predictions.append(
                ClassPrediction(self.classes[best], row[best], dict(zip(self.classes, row, strict=True)))
            )
        return predictions


class MultipleLabels(LabelKind):
    """Any number of classes a sample: a sigmoid each. Targets: ``(B, K)`` float32, NaN rows where missing."""

    best_metric = "average_precision"

    def encode(self, labels: Sequence[Label]) -> Tensor:
        """Turn sets of labels into rows of 0 and 1."""
        target = torch.zeros(len(labels), len(self.classes))
        for row, label in zip(target, labels, strict=True):
            if label is None:
                row.fill_(torch.nan)
            else:
                for one in label if isinstance(label, tuple) else (label,):
                    row[self.find(one)] = 1.0
        return target

    def loss(self, output: Tensor, target: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
        """Give the binary cross-entropy, in nats, averaged over classes."""
        known = ~target.isnan()
        if not bool(known.any()):
            return zero_loss(output)
        soft = torch.where(known, target, 0.0) * (1 - smoothing) + smoothing / 2
        each = F.binary_cross_entropy_with_logits(output, soft, pos_weight=weights, reduction="none")
        return each[known].mean()

    def metrics(self, threshold: float) -> MetricCollection:
        """Make mean average precision, macro F1 and exact match, the latter two at the threshold."""
        from torchmetrics import MetricCollection
        from torchmetrics.classification import BinaryAccuracy, BinaryF1Score, MultilabelExactMatch, MultilabelF1Score

        from zoo_heads.metrics import MeanAveragePrecision

        count = len(self.classes)
        if count > 1:
            f1 = MultilabelF1Score(count, average="macro", threshold=threshold)
            exact_match = MultilabelExactMatch(count, threshold=threshold)
        else:  # torchmetrics has no multilabel metric of one label
            f1, exact_match = BinaryF1Score(threshold=threshold), BinaryAccuracy(threshold=threshold)
        return MetricCollection({"average_precision": MeanAveragePrecision(), "f1": f1, "exact_match": exact_match})

    def update(self, metrics: MetricCollection, output: Tensor, target: Tensor) -> None:
        """Feed the samples that have labels."""
        known = ~target.isnan().any(dim=1)
        if bool(known.any()):
            metrics.update(output[known].float().sigmoid(), target[known].long())

    def decode(self, output: Tensor, threshold: float) -> list[Any]:
        """Give the labels of each sample that reach the threshold."""
        predictions = []
        for row in output.float().sigmoid().tolist():
            chances = dict(zip(self.classes, row, strict=True))
            labels = tuple(name for name, chance in chances.items() if chance >= threshold)
            predictions.append(LabelsPrediction(labels, chances))
        return predictions
