"""Quantization: a model is trained with the rounding to eight bits in every pass, so that it learns to live with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.contracts.method import Method, Plan, StageState
from zoo.contracts.objective import Batch, Objective, TrainingRows
from zoo.contracts.outline import BackboneOutline
from zoo.contracts.rounding import Rounding, rounding_of
from zoo.errors import ConfigError
from zoo_methods.settings import check_count, check_number

if TYPE_CHECKING:
    from zoo.model import Model

__all__ = ["Quantization"]


@dataclass(frozen=True)
class Quantization(Method):
    """Quantize the backbones on the training rows, then train everything with the rounding in every pass.

    What is rounded, and where, is said by ``zoo.quantize``, which does it before the first epoch. Gradients go straight
    through the rounding, and are zero for activations beyond their range. The ranges follow what comes in training for
    the first part of the run, then rest; those of frozen stages always rest. A model that is quantized already gets its
    ranges anew.

    Args:
        observer: By what the first ranges are found: ``minmax`` or ``histogram``.
        calibration_rows: How many training rows they are found by, 1 or more.
        follow: Share of the run in which ranges follow what they see, from 0 for not at all to 1.
        momentum: How much of each range is new in a step that they follow, above 0 and at most 1.
        backbone_lr_scale: Learning rate of the backbones as a share of the heads', above 0.

    Source:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
        2018, arXiv:1712.05877, section 3: rounding in the forward pass, float weights behind it, ranges as moving
        averages. They let ranges rest at first, ours begin where those of the finished float model are. They fold norms
        into weights in training; with steps of each channel apart the integers are the same without.
    """

    observer: str = "minmax"
    calibration_rows: int = 256
    follow: float = 0.5
    momentum: float = 0.01
    backbone_lr_scale: float = 0.1

    summary = "Integers of eight bits in every pass, so that the weights learn to live with them"
    when = "A model that must be small and quick on a CPU or a phone, where zoo.quantize alone costs too much accuracy."

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.observer not in ("minmax", "histogram"):
            raise ConfigError(f"observer must be minmax or histogram, got {self.observer!r}.")
        check_count("calibration_rows", self.calibration_rows)
        if isinstance(self.follow, bool) or not isinstance(self.follow, (int, float)) or not 0 <= self.follow <= 1:
            raise ConfigError(f"follow must be a share of the run from 0 to 1, got {self.follow!r}.")
        check_number("momentum", self.momentum)
        if self.momentum > 1:
            raise ConfigError(f"momentum must be above 0 and at most 1, got {self.momentum!r}.")
        check_number("backbone_lr_scale", self.backbone_lr_scale)

    def told(self) -> dict[str, Any]:
        """Give the settings."""
        return asdict(self)

    def objective(self, model: Model, *, seed: int = 0) -> Objective:
        """Quantize on the training rows, and let ranges follow."""
        return _Ranges(self)

    def plan(self, streams: Mapping[str, BackboneOutline], *, epochs: int, lr: float) -> Plan:
        """Train every stage in every epoch."""
        low = StageState(trainable=True, lr=lr * self.backbone_lr_scale)
        states = {f"{name}.{stage.name}": low for name, outline in streams.items() for stage in outline.stages}
        return Plan(epochs=({**states, "heads": StageState(trainable=True, lr=lr)},) * epochs)


class _Ranges(Objective):
    """Trains by the heads' own losses, while the ranges of the places follow what comes there.

    Args:
        how: The settings.
    """

    done: Tensor

    def __init__(self, how: Quantization) -> None:
        super().__init__()
        self._how = how
        self.register_buffer("done", torch.zeros((), dtype=torch.float64))

    @property
    def live(self) -> bool:
        """Passes cannot be kept: ranges follow what they see."""
        return True

    def begin(self, model: Model, rows: TrainingRows) -> None:
        """Quantize the model."""
        import zoo

        how: Any = self._how.observer
        zoo.quantize(model, rows, observer=how, calibration_rows=self._how.calibration_rows)
        for rounding in self._roundings(model):
            rounding.watch = self._follow

    def losses(self, model: Model, batch: Batch) -> Mapping[str, Tensor]:
        """Give the heads' losses as they are."""
        return batch.losses

    def stepped(self, model: Model, progress: float) -> None:
        """Note how far the run is."""
        self.done.fill_(progress)

    def finish(self, model: Model) -> None:
        """Let all ranges rest."""
        for rounding in self._roundings(model):
            rounding.watch = None

    def _follow(self, rounding: Rounding, place: int, given: Tensor, training: bool) -> None:
        """Move a range towards the least and the largest number of a batch."""
        if not training or not torch.is_grad_enabled() or float(self.done) >= self._how.follow:
            return
        now = torch.stack(given.detach().float().aminmax())
        rounding.ranges[place] = torch.lerp(rounding.ranges[place], now, self._how.momentum)

    def _roundings(self, model: Model) -> list[Rounding]:
        return [found for backbone in model.backbones.values() if (found := rounding_of(backbone)) is not None]
