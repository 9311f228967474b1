"""Embedding: a vector of length 1, near that of other samples of the same class."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.contracts.features import Features
from zoo.contracts.head import HeadContext, Label, Needs, Task, TaskConfig, zero_loss
from zoo.errors import CapabilityError, ConfigError, DataError
from zoo.spec import HeadSpec
from zoo_heads.classes import check_classes, complete_classes, must_have_classes
from zoo_heads.labels import MISSING, SingleLabel, label_text
from zoo_heads.layers import check_layers, projection
from zoo_heads.losses import arcface, batch_hard_triplet

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

__all__ = ["Embedding", "EmbeddingConfig", "EmbeddingPrediction"]

MARGIN = {"arcface": 0.5, "triplet": 0.2}
"""Margins where none is set."""
SCALE = 64.0
"""Scale of ArcFace's cosines where none is set, as in the paper."""


@dataclass(frozen=True, slots=True)
class EmbeddingPrediction:
    """The embedding of a sample.

    Args:
        embedding: A vector of length 1.
        label: The class whose prototype is nearest; None with the triplet loss, which has no prototypes.
        cosine: Cosine to that prototype; None with it.
    """

    embedding: tuple[float, ...]
    label: str | None = None
    cosine: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        named = {} if self.label is None else {"label": self.label, "cosine": self.cosine}
        return {**named, "embedding": list(self.embedding)}


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig(TaskConfig):
    """Settings of an embedding.

    Args:
        loss: ``arcface``, a classifier of angles with a margin; or ``triplet``, the batch-hard triplet loss.
        dim: Width of the embedding.
        classes: Names of the classes, 2 or more. ``arcface`` needs them, None takes them from the training labels;
            with ``triplet`` None lets any label be a class, also one that training never saw.
        margin: ``arcface``: angle in radians, in ``[0, π/2)``, None for 0.5. ``triplet``: distance, 0 or more, None for
            0.2; or ``soft`` for the softplus in place of a margin.
        scale: What ArcFace multiplies the cosines by, above 0; None for 64.
        norm: Whether to put a LayerNorm in front.
        hidden: Width of a hidden layer with GELU; None for a linear embedding.
        dropout: Chance that a channel is zeroed in training, in ``[0, 1)``.
    """

    loss: Literal["arcface", "triplet"] = "arcface"
    dim: int = 128
    classes: tuple[str, ...] | None = None
    margin: float | Literal["soft"] | None = None
    scale: float | None = None
    norm: bool = False
    hidden: int | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        TaskConfig.__post_init__(self)
        check_layers(self)
        check_classes(self.classes, least=2)
        if self.dim < 1:
            raise ConfigError(f"dim must be 1 or more, got {self.dim}.")
        if self.loss == "triplet" and self.scale is not None:
            raise ConfigError("scale is ArcFace's; leave it out with the triplet loss.")
        if self.scale is not None and not self.scale > 0:
            raise ConfigError(f"scale must be above 0, got {self.scale}.")
        if self.loss == "arcface" and (self.margin == "soft" or not 0 <= (self.margin or 0) < math.pi / 2):
            raise ConfigError(f"margin of ArcFace must be an angle in [0, π/2), got {self.margin!r}.")
        if self.loss == "triplet" and self.margin != "soft" and not (self.margin or 0) >= 0:
            raise ConfigError(f"margin must be 0 or more, or 'soft', got {self.margin}.")


class Embedding(Task):
    """A linear map or small perceptron on the pooled vector, scaled to length 1, trained by metric learning.

    Shape:
        - pooled: ``(B, pooled_dim)``, any float dtype.
        - output: ``(B, dim)``, rows of length 1.
        - target: ``(B,)`` int64, one number a class, -100 where missing.

    Raises:
        ConfigError: If ``classes`` is not set with ``arcface`` when it is built.

    Source:
        Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", 2019, arXiv:1801.07698; Hermans
        et al., "In Defense of the Triplet Loss for Person Re-Identification", 2017, arXiv:1703.07737. See
        :mod:`zoo_heads.losses` for the formulas and how ours differ.
    """

    Config = EmbeddingConfig
    summary = "A vector of length 1 for retrieval, learnt with ArcFace or batch-hard triplets"

    def __init__(self, spec: HeadSpec, config: EmbeddingConfig, context: HeadContext) -> None:
        super().__init__(spec, config, context)
        width = context.streams[self.stream].pooled_dim
        self.layers = projection(width, config.dim, norm=config.norm, hidden=config.hidden, dropout=config.dropout)
        angular = config.loss == "arcface"
        classes = must_have_classes(spec, config.classes) if angular else config.classes
        self.labels = None if classes is None else SingleLabel(spec.name, classes)
        self.prototypes: nn.Parameter | None = None
        if angular and classes is not None:
            self.prototypes = nn.Parameter(torch.empty(len(classes), config.dim))
            nn.init.xavier_normal_(self.prototypes)
        self.margin = MARGIN[config.loss] if config.margin is None else config.margin

    @classmethod
    def reads(cls, config: EmbeddingConfig) -> Needs:
        """Read the pooled vector."""
        return Needs(pooled=True)

    @classmethod
    def complete(cls, spec: HeadSpec, columns: Mapping[str, Sequence[Label]], context: HeadContext) -> HeadSpec:
        """Take ArcFace's classes from the labels, sorted; whole numbers by value."""
        config: EmbeddingConfig = cls.read_config(spec)
        if config.classes is not None or config.loss == "triplet":
            return spec
        return complete_classes(spec, columns, target=config.target, several=None)

    def score(self, features: Features) -> Tensor:
        """Give the embeddings."""
        if features.pooled is None:
            raise CapabilityError(f"The head {self.spec.name!r} needs the pooled vector, and it was not computed.")
        return F.normalize(self.layers(features.pooled), dim=-1)

    def encode(self, labels: Sequence[Label]) -> Tensor:
        """Turn labels into numbers: the index of their class, or a digest of their text where any label is a class.

        Raises:
            DataError: If a label is none of the classes, or not one text or whole number.
        """
        for label in labels:
            if isinstance(label, tuple):
                raise DataError(f"The head {self.spec.name!r} (embedding) takes one label a sample, got {label}.")
        if self.labels is not None:
            return self.labels.encode(labels)
        return torch.tensor([MISSING if label is None else _number(label_text(label)) for label in labels])

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Give ArcFace's cross-entropy, in nats, or the triplet loss, in units of distance."""
        known = target != MISSING
        given, classes = output[known].float(), target[known]
        if self.prototypes is not None:
            if not len(given):
                return zero_loss(output, self.prototypes)
            return arcface(given, self.prototypes, classes, margin=float(self.margin), scale=self.config.scale or SCALE)
        margin = None if self.margin == "soft" else float(self.margin)
        hard = batch_hard_triplet(given, classes, margin=margin)
        return zero_loss(output) if hard is None else hard

    def metrics(self) -> MetricCollection:
        """Make recall at 1 and mean average precision of retrieval within the evaluated rows."""
        from torchmetrics import MetricCollection

        from zoo_heads.retrieval import Retrieval

        return MetricCollection(
            {"map": Retrieval("map"), "recall_at_1": Retrieval("recall_at_1")}, compute_groups=[["map", "recall_at_1"]]
        )

    @property
    def best_metric(self) -> tuple[str, bool]:
        """Mean average precision."""
        return "map", True

    def update(self, metrics: MetricCollection, output: Tensor, target: Tensor) -> None:
        """Feed the samples that have a label."""
        known = target != MISSING
        if bool(known.any()):
            metrics.update(output[known].float(), target[known])

    def decode(self, output: Tensor) -> list[Any]:
        """Give an ``EmbeddingPrediction`` for each sample."""
        given = output.float()
        rows = [tuple(row) for row in given.tolist()]
        if self.prototypes is None or self.labels is None:
            return [EmbeddingPrediction(row) for row in rows]
        prototypes = F.normalize(self.prototypes.detach().to(given), dim=-1)
        best, index = (given @ prototypes.T).max(dim=1)
        names = [self.labels.classes[one] for one in index.tolist()]
        return [EmbeddingPrediction(*one) for one in zip(rows, names, best.tolist(), strict=True)]

    def example_labels(self) -> list[Label]:
        """Give two classes twice each, and a missing label."""
        one, two = self.labels.classes[:2] if self.labels is not None else ("a", "b")
        return [one, one, two, two, None]


def _number(text: str) -> int:
    """Give a text's own number, from 0 to 2**63 - 1, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
