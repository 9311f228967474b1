"""LoRA: low-rank adapters and heads learn, the backbones' own weights rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo.contracts.method import FROZEN, Method, Plan, StageState
from zoo.contracts.outline import BackboneOutline
from zoo.errors import ConfigError

if TYPE_CHECKING:
    from zoo.model import Model

__all__ = ["LoRA"]


@dataclass(frozen=True)
class LoRA(Method):
    """Train heads, and low-rank adapters beside layers of the backbones, by PEFT.

    A layer that is adapted gives ``layer(x) + alpha / rank * B(A(dropout(x)))``; ``B`` begins at 0, so that training
    begins from the pretrained features. Weights and running statistics of the backbones stay as they were pretrained,
    bit for bit, until adapters are merged.

    Args:
        rank: Width between ``A`` and ``B``, 1 to 4096.
        alpha: Numerator of the scale, above 0.
        dropout: Share of the inputs of ``A`` that is dropped in training, in ``[0, 1)``.
        targets: ``attention``, ``linear``, ``all`` (convolutions, too), or ``auto``: attention where there is any, else
            all; or a list of paths of layers in the library's module, of which the end is enough (``qkv``).
        stages: List of the stages whose layers are adapted; None for all.
        adapter_lr_scale: Learning rate of the adapters as a share of the heads', above 0.
        merge: Whether what the adapters learnt is added to the backbones' weights after training, which leaves a plain
            model; else adapters are kept beside them.

    Source:
        Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, arXiv:2106.09685. There the query and
        value projections of transformers are adapted; here all linear layers of attention, and in networks without it
        all linear layers and convolutions. Heads train, too, at a rate of their own.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: str | Sequence[str] = "auto"
    stages: str | Sequence[str] | None = None
    adapter_lr_scale: float = 1.0
    merge: bool = False

    summary = "Frozen backbone with low-rank adapters beside its layers, which learn with the heads"
    when = "Transformers too large to train whole, or many tasks on one backbone that is kept once."

    def __post_init__(self) -> None:
        """Check what does not depend on the model."""
        scale = self.adapter_lr_scale
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
            raise ConfigError(f"adapter_lr_scale must be a number above 0, got {scale!r}.")
        if not isinstance(self.merge, bool):
            raise ConfigError(f"merge must be true or false, got {self.merge!r}.")
        for what in ("targets", "stages"):
            value = getattr(self, what)
            if what == "stages" and value is None:
                continue
            named = [value] if isinstance(value, str) else value
            if not isinstance(named, (list, tuple)) or not named or not all(isinstance(one, str) for one in named):
                raise ConfigError(f"{what} must be a name or a list of names, got {value!r}.")

    def prepare(self, model: Model, *, seed: int = 0) -> None:
        """Put the adapters on the model's backbones; those that are there from an earlier run go on."""
        model.add_adapters(
            rank=self.rank,
            alpha=self.alpha,
            dropout=self.dropout,
            targets=self.targets,
            stages=[self.stages] if isinstance(self.stages, str) else self.stages,
            seed=seed,
        )

    def plan(self, streams: Mapping[str, BackboneOutline], *, epochs: int, lr: float) -> Plan:
        """Train the adapters of every stage that has any, and the heads, in every epoch."""
        adapted = StageState(trainable=True, lr=lr * self.adapter_lr_scale, train="adapters")
        states = {
            f"{name}.{stage.name}": adapted if stage.adapters else FROZEN
            for name, outline in streams.items()
            for stage in outline.stages
        }
        return Plan(epochs=({**states, "heads": StageState(trainable=True, lr=lr)},) * epochs)

    def finish(self, model: Model) -> None:
        """Merge the adapters, if that was asked for."""
        if self.merge:
            model.merge_adapters()
