"""Feature extraction: the backbones rest, the heads learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zoo.contracts.method import FROZEN, Method, Plan, StageState
from zoo.contracts.outline import BackboneOutline

__all__ = ["FeatureExtraction"]


@dataclass(frozen=True)
class FeatureExtraction(Method):
    """Train the heads on frozen features.

    Weights, running statistics and dropout of every backbone stay as they were pretrained, so each picture goes through
    them once and its features are kept. Training views are the evaluation's.

    Source:
        Donahue et al., "DeCAF: A Deep Convolutional Activation Feature for Generic Visual Recognition", 2014,
        arXiv:1310.1531. Ours trains the heads by gradient descent instead of a closed-form classifier.
    """

    summary = "Frozen backbone, features computed once and kept; only the heads learn"
    when = "First of all: in minutes on a CPU, and best with little data that is near the pretraining."

    def plan(self, streams: Mapping[str, BackboneOutline], *, epochs: int, lr: float) -> Plan:
        """Freeze every stage of every stream in every epoch."""
        states = {f"{name}.{stage.name}": FROZEN for name, spec in streams.items() for stage in spec.stages}
        return Plan(epochs=({**states, "heads": StageState(trainable=True, lr=lr)},) * epochs)
