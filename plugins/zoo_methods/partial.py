"""Partial fine-tuning: the last stages and the heads learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zoo.contracts.method import FROZEN, Method, Plan, StageState
from zoo.contracts.outline import BackboneOutline, find_stage
from zoo.errors import ConfigError
from zoo_methods.settings import check_count, check_number

__all__ = ["Partial"]


@dataclass(frozen=True)
class Partial(Method):
    """Train the heads and the last stages of every backbone, at a lower rate; the stages before them rest.

    ``post``, a final norm or a last convolution, is not counted: it trains with the last stage that has blocks.

    Args:
        stages: How many of the last stages train, 1 or more.
        since: The first stage that trains, as ``s3`` or ``stream.s3``, in place of ``stages``; of a stream that it does
            not name, none trains.
        backbone_lr_scale: Learning rate of these stages as a share of the heads', above 0.

    Source:
        Yosinski et al., "How transferable are features in deep neural networks?", 2014, arXiv:1411.1792, freezes the
        first n layers and trains the rest. Ours counts from the top and in stages, and gives them a lower rate.
    """

    stages: int = 1
    since: str | None = None
    backbone_lr_scale: float = 0.1

    summary = "The heads and the last stages learn, the stages before them rest"
    when = "Between feature extraction and fine-tuning: some hundred rows, or a CPU to train on."

    def __post_init__(self) -> None:
        """Check the settings."""
        check_count("stages", self.stages)
        check_number("backbone_lr_scale", self.backbone_lr_scale)
        if self.since is not None and not isinstance(self.since, str):
            raise ConfigError(f"since must be the name of a stage, got {self.since!r}.")
        if self.since is not None and self.stages != 1:
            raise ConfigError(f"since={self.since!r} stands in place of stages; leave stages={self.stages} out.")

    def plan(self, streams: Mapping[str, BackboneOutline], *, epochs: int, lr: float) -> Plan:
        """Train the last stages in every epoch."""
        low = StageState(trainable=True, lr=lr * self.backbone_lr_scale)
        begins = find_stage(streams, self.since) if self.since is not None else None
        states = {"heads": StageState(trainable=True, lr=lr)}
        for stream, outline in streams.items():
            names = [stage.name for stage in outline.stages]
            if begins is None:
                trained = self._last(stream, outline)
            else:
                trained = frozenset(names[names.index(begins[stream]) :]) if stream in begins else frozenset()
            states |= {f"{stream}.{name}": low if name in trained else FROZEN for name in names}
        return Plan(epochs=(states,) * epochs)

    def _last(self, stream: str, outline: BackboneOutline) -> frozenset[str]:
        units = outline.units()
        if self.stages > len(units):
            raise ConfigError(f"stages must be {len(units)} or less, all that {stream!r} has, got {self.stages}.")
        return frozenset(name for unit in units[-self.stages :] for name in unit)
