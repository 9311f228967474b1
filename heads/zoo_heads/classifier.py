"""The classifier: one label a sample, or any number of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from zoo.contracts.features import Features
from zoo.contracts.head import HeadContext, Needs
from zoo.errors import CapabilityError, ConfigError
from zoo.spec import HeadSpec
from zoo_heads.classes import ClassConfig, ClassTask, more_classes
from zoo_heads.layers import Cosine, check_layers, projection

__all__ = ["Classifier", "ClassifierConfig", "classifying_layers"]

SCALE = 10.0
"""Scale of the cosine where none is set, as in the paper."""


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(ClassConfig):
    """Settings of a classifier.

    Args:
        norm: Whether to put a LayerNorm in front; it lets a head on frozen features learn several times faster.
        hidden: Width of a hidden layer with GELU; None for a linear classifier.
        dropout: Chance that a channel is zeroed in training, in ``[0, 1)``.
        cosine: Whether the logits are scaled cosines between the vector and a weight a class, without a bias.
        scale: What the cosines are multiplied by, above 0; where it starts if it is learnt. None for 10.
        fixed_scale: Whether the scale of the cosines stays as it is, instead of being learnt.
    """

    norm: bool = False
    hidden: int | None = None
    dropout: float = 0.0
    cosine: bool = False
    scale: float | None = None
    fixed_scale: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        ClassConfig.__post_init__(self)
        check_layers(self)
        if not self.cosine and (self.scale is not None or self.fixed_scale):
            raise ConfigError("scale and fixed_scale are of a cosine classifier; set cosine=True or leave them out.")
        if self.scale is not None and not self.scale > 0:
            raise ConfigError(f"scale must be above 0, got {self.scale}.")


class Classifier(ClassTask):
    """A linear or cosine classifier, or small perceptron, on the pooled vector.

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
        self.layers = classifying_layers(config, context.streams[self.stream].pooled_dim, len(self.labels.classes))

    def grown(self, classes: Sequence[str]) -> HeadSpec:
        """Describe itself with more classes: further rows of the last layer."""
        return more_classes(self.spec, self.config, classes)

    @classmethod
    def reads(cls, config: ClassifierConfig) -> Needs:
        """Read the pooled vector."""
        return Needs(pooled=True)

    def score(self, features: Features) -> Tensor:
        """Give the logits."""
        if features.pooled is None:
            raise CapabilityError(f"The head {self.spec.name!r} needs the pooled vector, and it was not computed.")
        return self.layers(features.pooled)


def classifying_layers(config: ClassifierConfig, width: int, count: int) -> nn.Sequential:
    """Make the layers of a classifier from its settings.

    Args:
        config: The settings.
        width: Width of the vector that is classified.
        count: Number of classes.
    """
    last = partial(Cosine, scale=config.scale or SCALE, fixed=config.fixed_scale) if config.cosine else nn.Linear
    return projection(width, count, norm=config.norm, hidden=config.hidden, dropout=config.dropout, last=last)
