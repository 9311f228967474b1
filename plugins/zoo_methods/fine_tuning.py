"""Fine-tuning: everything learns, the backbones at a lower rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zoo.contracts.method import Method, Plan, StageState
from zoo.contracts.outline import BackboneOutline
from zoo_methods.settings import check_number

__all__ = ["FineTuning"]


@dataclass(frozen=True)
class FineTuning(Method):
    """Train heads and backbones together.

    Args:
        backbone_lr_scale: Learning rate of the backbones as a share of the heads', above 0.

    Source:
        Girshick et al., "Rich feature hierarchies for accurate object detection and semantic segmentation", 2014,
        arXiv:1311.2524, fine-tunes at a tenth of the rate of pretraining; here the tenth is of the heads' rate.
    """

    backbone_lr_scale: float = 0.1

    summary = "Everything learns, the backbones at a tenth of the heads' rate"
    when = "Thousands of labelled rows, or pictures unlike those of the pretraining."

    def __post_init__(self) -> None:
        """Check the rate."""
        check_number("backbone_lr_scale", self.backbone_lr_scale)

    def plan(self, streams: Mapping[str, BackboneOutline], *, epochs: int, lr: float) -> Plan:
        """Train every stage in every epoch."""
        low = StageState(trainable=True, lr=lr * self.backbone_lr_scale)
        states = {f"{name}.{stage.name}": low for name, spec in streams.items() for stage in spec.stages}
        return Plan(epochs=({**states, "heads": StageState(trainable=True, lr=lr)},) * epochs)
