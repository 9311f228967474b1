"""Ordinal: one of several ranks, such as a grade from 1 to 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.contracts.features import Features
from zoo.contracts.head import HeadContext, Label, Needs, Task, TaskConfig, zero_loss
from zoo.errors import CapabilityError, DataError
from zoo.spec import HeadSpec
from zoo_heads.classes import check_classes, complete_classes, is_whole, must_have_classes, texts_of
from zoo_heads.labels import MISSING, SingleLabel
from zoo_heads.layers import check_layers, projection

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

__all__ = ["Ordinal", "OrdinalConfig", "RankPrediction"]


@dataclass(frozen=True, slots=True)
class RankPrediction:
    """The predicted rank of a sample.

    Args:
        label: Name of the class at that rank.
        rank: How many thresholds are passed, counted from 0.
        expected_rank: Mean of the rank by the probabilities.
        probabilities: Class to probability, from the lowest to the highest.
    """

    label: str
    rank: int
    expected_rank: float
    probabilities: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return {
            "label": self.label,
            "rank": self.rank,
            "expected_rank": self.expected_rank,
            "probabilities": self.probabilities,
        }


@dataclass(frozen=True, kw_only=True)
class OrdinalConfig(TaskConfig):
    """Settings of an ordinal head.

    Args:
        classes: Names of the classes from the lowest to the highest, 2 or more; None to take them from the training
            labels, which must be whole numbers then.
        norm: Whether to put a LayerNorm in front.
        hidden: Width of a hidden layer with GELU; None for a linear head.
        dropout: Chance that a channel is zeroed in training, in ``[0, 1)``.
    """

    classes: tuple[str, ...] | None = None
    norm: bool = False
    hidden: int | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        TaskConfig.__post_init__(self)
        check_layers(self)
        check_classes(self.classes, least=2)


class Ordinal(Task):
    """One score a sample and ``K - 1`` thresholds in order, which ask: is the rank higher than this?

    Logit ``k`` is ``f(x) + b_k``, and ``sigmoid`` of it the probability that the rank is above ``k``. The loss is the
    sum of the ``K - 1`` binary cross-entropies.

    Shape:
        - pooled: ``(B, pooled_dim)``, any float dtype.
        - output: ``(B, K - 1)`` logits, falling within a row.
        - target: ``(B,)`` int64, the rank from 0, -100 where missing.

    Raises:
        ConfigError: If ``classes`` is not set when it is built.

    Source:
        Cao et al., "Rank consistent ordinal regression for neural networks with application to age estimation", 2020,
        arXiv:1901.07884 (CORAL), with all task weights 1. There the thresholds are free and in order once training has
        converged; ours are always, since each is the one before less a softplus. They start where all ranks are equally
        likely.
    """

    Config = OrdinalConfig
    summary = "One of several ranks in order (CORAL): a shared score and a threshold between each two ranks"

    def __init__(self, spec: HeadSpec, config: OrdinalConfig, context: HeadContext) -> None:
        super().__init__(spec, config, context)
        self.labels = SingleLabel(spec.name, must_have_classes(spec, config.classes))
        width, count = context.streams[self.stream].pooled_dim, len(self.labels.classes)
        self.layers = projection(width, 1, norm=config.norm, hidden=config.hidden, dropout=config.dropout)
        layer = self.layers[-1]
        if isinstance(layer, nn.Linear):
            layer.register_parameter("bias", None)  # the thresholds are it
        start = torch.logit(torch.arange(count - 1, 0, -1) / count)
        steps = start[:-1] - start[1:]
        self.first = nn.Parameter(start[:1].clone())
        self.steps = nn.Parameter(steps + torch.log(-torch.expm1(-steps)))  # softplus undoes it

    @classmethod
    def reads(cls, config: OrdinalConfig) -> Needs:
        """Read the pooled vector."""
        return Needs(pooled=True)

    @classmethod
    def complete(cls, spec: HeadSpec, columns: Mapping[str, Sequence[Label]], context: HeadContext) -> HeadSpec:
        """Take the classes from labels that are whole numbers; the order of texts is the user's to say."""
        config: OrdinalConfig = cls.read_config(spec)
        if config.classes is not None:
            return spec
        found, _ = texts_of(spec, columns, config.target)
        texts = sorted(text for text in found if not is_whole(text))
        if texts:
            raise DataError(
                f"The head {spec.name!r} (ordinal) cannot know the order of {', '.join(map(repr, texts[:5]))}; give "
                "classes=[…] from the lowest to the highest."
            )
        return complete_classes(spec, columns, target=config.target, several=None)

    def thresholds(self) -> Tensor:
        """Give the thresholds ``b``, ``(K - 1,)``, falling."""
        return torch.cat([self.first, self.first - F.softplus(self.steps).cumsum(dim=0)])

    def score(self, features: Features) -> Tensor:
        """Give the logits."""
        if features.pooled is None:
            raise CapabilityError(f"The head {self.spec.name!r} needs the pooled vector, and it was not computed.")
        return self.layers(features.pooled) + self.thresholds()

    def encode(self, labels: Sequence[Label]) -> Tensor:
        """Turn labels into ranks; raises ``DataError`` for one that is none of the classes."""
        for label in labels:
            if isinstance(label, tuple):
                raise DataError(f"The head {self.spec.name!r} (ordinal) takes one label a sample, got {label}.")
        return self.labels.encode(labels)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Give the sum of the binary cross-entropies of all thresholds, in nats, mean over samples."""
        known = target != MISSING
        if not bool(known.any()):
            return zero_loss(output)
        logits = output[known]
        above = target[known, None] > torch.arange(logits.shape[1], device=target.device)
        each = F.binary_cross_entropy_with_logits(logits, above.to(logits.dtype), reduction="none")
        return each.sum(dim=1).mean()

    @property
    def activation(self) -> Literal["softmax", "sigmoid"] | None:
        """A sigmoid each: the probability that the rank is higher."""
        return "sigmoid"

    def metrics(self) -> MetricCollection:
        """Make mean absolute error in ranks, accuracy, and kappa with quadratic weights."""
        from torchmetrics import MeanAbsoluteError, MetricCollection
        from torchmetrics.classification import MulticlassAccuracy

        from zoo_heads.metrics import QuadraticKappa

        count = len(self.labels.classes)
        return MetricCollection(
            {
                "mae": MeanAbsoluteError(),
                "accuracy": MulticlassAccuracy(count, average="micro"),
                "kappa": QuadraticKappa(count),
            }
        )

    @property
    def best_metric(self) -> tuple[str, bool]:
        """Mean absolute error; less is better."""
        return "mae", False

    def constant(self, targets: Tensor) -> Tensor:
        """Give the logits of the shares of labels above each rank; what they tell is the median rank."""
        above = targets[:, None] > torch.arange(len(self.labels.classes) - 1, device=targets.device)
        return above.float().mean(dim=0).logit(eps=1e-6)

    def update(self, metrics: MetricCollection, output: Tensor, target: Tensor) -> None:
        """Feed the ranks of the samples that have a label."""
        known = target != MISSING
        if bool(known.any()):
            metrics.update(_ranks(output[known]), target[known])

    def decode(self, output: Tensor) -> list[Any]:
        """Give a ``RankPrediction`` for each sample."""
        above = output.float().sigmoid()
        edges = torch.cat([torch.ones_like(above[:, :1]), above, torch.zeros_like(above[:, :1])], dim=1)
        chances = (edges[:, :-1] - edges[:, 1:]).tolist()
        classes = self.labels.classes
        return [
            RankPrediction(classes[rank], rank, expected, dict(zip(classes, row, strict=True)))
            for rank, expected, row in zip(_ranks(output).tolist(), above.sum(dim=1).tolist(), chances, strict=True)
        ]

    def example_labels(self) -> list[Label]:
        """Give each class once, and a missing label."""
        return [*self.labels.classes, None]


def _ranks(output: Tensor) -> Tensor:
    """Count the thresholds that each sample passes: those of a probability above one half."""
    return (output > 0).sum(dim=1)
