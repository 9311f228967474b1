"""Discriminative rates: everything learns, the slower the deeper it lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from zoo.contracts.method import Method, Plan, StageState
from zoo.contracts.outline import BackboneOutline
from zoo.errors import ConfigError
from zoo_methods.settings import check_number

__all__ = ["Discriminative"]


@dataclass(frozen=True)
class Discriminative(Method):
    """Train everything, each stage or block at a share of the rate of the one above it.

    The rate is ``lr * backbone_lr_scale * decay ** depth``. The heads have depth 0, the last stage or block 1, the one
    before it 2, down to the stem. ``post``, a final norm or a last convolution, is as deep as the last stage or block.

    Args:
        by: What has a rate of its own: ``block``, such as a transformer's layer or a residual block, or ``stage``.
        decay: The rate as a share of that of the next above, above 0 and at most 1.
        backbone_lr_scale: What the rates of the backbones are multiplied with besides, above 0.

    Source:
        Clark et al., "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators", 2020,
        arXiv:2003.10555, and Bao et al., "BEiT: BERT Pre-Training of Image Transformers", 2021, arXiv:2106.08254. There
        a final norm has the heads' rate; ours is with the last block, which it follows.
    """

    by: Literal["block", "stage"] = "block"
    decay: float = 0.75
    backbone_lr_scale: float = 1.0

    summary = "Everything learns, each block at three quarters of the rate of the one above it"
    when = "Fine-tuning a deep pretrained backbone on data that is near what it was trained on."

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.by not in ("block", "stage"):
            raise ConfigError(f"by must be 'block' or 'stage', got {self.by!r}.")
        check_number("backbone_lr_scale", self.backbone_lr_scale)
        check_number("decay", self.decay)
        if self.decay > 1:
            raise ConfigError(f"decay must be 1 or less, since deeper stages are to learn slower, got {self.decay!r}.")

    def plan(self, streams: Mapping[str, BackboneOutline], *, epochs: int, lr: float) -> Plan:
        """Train every stage in every epoch, at the rate of its depth."""
        states = {"heads": StageState(trainable=True, lr=lr)}
        for stream, outline in streams.items():
            depth, inside = 1, self.decay if self.by == "block" else 1.0
            for unit in reversed(outline.units()):
                rate = lr * self.backbone_lr_scale * self.decay**depth
                states |= {f"{stream}.{name}": StageState(True, rate, decay=inside) for name in unit}
                blocks = max(outline.stage(name).blocks for name in unit)
                depth += max(1, blocks) if self.by == "block" else 1
        return Plan(epochs=(states,) * epochs)
