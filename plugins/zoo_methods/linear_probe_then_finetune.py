"""Linear probing, then fine-tuning: the heads learn to the end before the backbone is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zoo.contracts.method import FROZEN, Method, Plan, StageState
from zoo.contracts.outline import BackboneOutline
from zoo.errors import ConfigError
from zoo_methods.settings import check_number

__all__ = ["LinearProbeThenFinetune"]


@dataclass(frozen=True)
class LinearProbeThenFinetune(Method):
    """Train the heads on frozen backbones, then everything from there, at a lower rate and with a new schedule.

    A head that knows nothing yet would pull the features out of shape; one that is trained leaves them where they are
    good, which helps on data unlike that of the training.

    Args:
        probe: Share of the epochs in which the heads learn alone, above 0 and below 1; rounded, and each part has one
            epoch at the least.
        finetune_lr_scale: Learning rate of everything afterwards, as a share of the heads' before, above 0.

    Source:
        Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", 2022,
        arXiv:2202.10054. There the probe is solved to the end, and the rate afterwards is searched for; ours has epochs
        for both.
    """

    probe: float = 0.5
    finetune_lr_scale: float = 0.1

    summary = "The heads alone first, then everything at a tenth of the rate, with a schedule of its own"
    when = "Fine-tuning that has to hold on data unlike the training rows, too."

    def __post_init__(self) -> None:
        """Check the settings."""
        check_number("probe", self.probe, below=1.0)
        check_number("finetune_lr_scale", self.finetune_lr_scale)

    def plan(self, streams: Mapping[str, BackboneOutline], *, epochs: int, lr: float) -> Plan:
        """Train the heads, then everything."""
        if epochs < 2:
            raise ConfigError(f"linear_probe_then_finetune needs 2 epochs or more, one for each part, got {epochs}.")
        first = min(epochs - 1, max(1, round(epochs * self.probe)))
        names = [f"{stream}.{stage.name}" for stream, outline in streams.items() for stage in outline.stages]
        low = StageState(trainable=True, lr=lr * self.finetune_lr_scale)
        probing = {**dict.fromkeys(names, FROZEN), "heads": StageState(trainable=True, lr=lr)}
        tuning = {**dict.fromkeys(names, low), "heads": low}
        return Plan(epochs=(probing,) * first + (tuning,) * (epochs - first), restarts=(first,))
