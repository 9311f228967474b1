"""Heads first, then everything: the backbone is not disturbed by heads that know nothing yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zoo import BackboneOutline, ConfigError, Method, Plan, StageState

__all__ = ["HeadsThenAll"]


@dataclass(frozen=True)
class HeadsThenAll(Method):
    """Train the heads alone for the first half of the epochs, then heads and backbones together.

    Args:
        backbone_lr_scale: Learning rate of the backbones as a share of the heads', above 0.

    Source:
        Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", 2022,
        arXiv:2202.10054. There the heads are trained to the end first; here for half of the epochs, rounded down.
    """

    backbone_lr_scale: float = 0.1

    summary = "The first half of the epochs heads only, then everything"
    when = "Fine-tuning where new heads would shake the backbone at first."

    def __post_init__(self) -> None:
        """Check the rate."""
        if not self.backbone_lr_scale > 0:
            raise ConfigError(f"backbone_lr_scale must be above 0, got {self.backbone_lr_scale!r}.")

    def plan(self, streams: Mapping[str, BackboneOutline], *, epochs: int, lr: float) -> Plan:
        """Freeze every stage in the first half, train every stage in the second."""
        frozen = StageState(trainable=False)
        low = StageState(trainable=True, lr=lr * self.backbone_lr_scale)
        heads = {"heads": StageState(trainable=True, lr=lr)}
        names = [f"{name}.{stage.name}" for name, spec in streams.items() for stage in spec.stages]
        first = {**dict.fromkeys(names, frozen), **heads}
        second = {**dict.fromkeys(names, low), **heads}
        return Plan(epochs=(first,) * (epochs // 2) + (second,) * (epochs - epochs // 2))
