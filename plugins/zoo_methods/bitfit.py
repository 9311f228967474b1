"""BitFit: of the backbones the biases learn, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zoo.contracts.method import FROZEN, Method, Plan, StageState
from zoo.contracts.outline import BackboneOutline
from zoo.errors import ConfigError
from zoo_methods.settings import check_number

__all__ = ["BitFit"]


@dataclass(frozen=True)
class BitFit(Method):
    """Train the heads and the biases of the backbones, the shifts of their norms among them.

    Running statistics of norms stay as they were pretrained. A stage without biases rests.

    Args:
        backbone_lr_scale: Learning rate of the biases as a share of the heads', above 0.

    Source:
        Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models",
        2022, arXiv:2106.10199. There it is for transformers, whose norms have no running statistics; ours is for any
        backbone that has biases.
    """

    backbone_lr_scale: float = 1.0

    summary = "The heads and the biases of the backbones learn, a thousandth of the parameters"
    when = "Backbones with biases (transformers), little data, and many models of one backbone as small deltas."

    def __post_init__(self) -> None:
        """Check the rate."""
        check_number("backbone_lr_scale", self.backbone_lr_scale)

    def plan(self, streams: Mapping[str, BackboneOutline], *, epochs: int, lr: float) -> Plan:
        """Train the biases of every stage that has some, in every epoch."""
        biases = StageState(trainable=True, lr=lr * self.backbone_lr_scale, train="biases")
        states = {"heads": StageState(trainable=True, lr=lr)}
        for stream, outline in streams.items():
            if not any(stage.biases for stage in outline.stages):
                raise ConfigError(
                    f"bitfit trains biases, and the backbone of {stream!r} has none; choose another method."
                )
            states |= {f"{stream}.{stage.name}": biases if stage.biases else FROZEN for stage in outline.stages}
        return Plan(epochs=(states,) * epochs)
