"""Gradual unfreezing: the heads first, then one more stage at a time, from the last to the first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zoo.contracts.method import FROZEN, Method, Plan, StageState
from zoo.contracts.outline import BackboneOutline
from zoo.errors import ConfigError
from zoo_methods.settings import check_count, check_number

__all__ = ["GradualUnfreezing"]


@dataclass(frozen=True)
class GradualUnfreezing(Method):
    """Train the heads, then the heads and the last stage, then one more stage at each step, until all learn.

    The rate of a stage is that of the next above divided by ``lr_divisor``, so that the last stage has
    ``lr / lr_divisor``; it does not change from step to step. ``post``, a final norm or a last convolution, goes with
    the last stage. Streams are unfrozen side by side, counted from the top.

    Args:
        epochs_per_step: Epochs from one step to the next, 1 or more. Where the run is too short for all steps, the
            first stages never train.
        on_plateau: In place of it, epochs without a better validation value after which the next step begins, 1 or
            more; the value is that by which the best epoch is chosen. None for a fixed number of epochs.
        lr_divisor: What the rate is divided by from a stage to the one below it, 1 or more.

    Source:
        Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", 2018, arXiv:1801.06146: one
        layer group more each epoch, at rates that fall by 2.6. There each step has the slanted triangular schedule of
        the whole run, as ours has that of ``zoo.fit``; the choice of a plateau instead of an epoch is ours.
    """

    epochs_per_step: int = 1
    on_plateau: int | None = None
    lr_divisor: float = 2.6

    summary = "The heads first, then one more stage at a time from the last to the first, at falling rates"
    when = "Some hundred labelled rows, where fine-tuning at once forgets what was pretrained."

    def __post_init__(self) -> None:
        """Check the settings."""
        check_count("epochs_per_step", self.epochs_per_step)
        if self.on_plateau is not None:
            check_count("on_plateau", self.on_plateau)
            if self.epochs_per_step != 1:
                raise ConfigError(
                    f"on_plateau stands in place of epochs_per_step={self.epochs_per_step}; leave one out."
                )
        check_number("lr_divisor", self.lr_divisor)
        if self.lr_divisor < 1:
            raise ConfigError(
                f"lr_divisor must be 1 or more, since deeper stages learn slower, got {self.lr_divisor!r}."
            )

    def plan(self, streams: Mapping[str, BackboneOutline], *, epochs: int, lr: float) -> Plan:
        """Unfreeze one stage more at each step."""
        units = {stream: outline.units() for stream, outline in streams.items()}
        steps = [self._step(units, count, lr) for count in range(1 + max(map(len, units.values())))]
        if self.on_plateau is not None:
            return Plan(epochs=tuple(steps), patience=self.on_plateau)
        return Plan(epochs=tuple(steps[min(epoch // self.epochs_per_step, len(steps) - 1)] for epoch in range(epochs)))

    def _step(self, units: Mapping[str, tuple[tuple[str, ...], ...]], count: int, lr: float) -> dict[str, StageState]:
        """Give the states in which the last ``count`` stages of each stream train."""
        states = {"heads": StageState(trainable=True, lr=lr)}
        for stream, groups in units.items():
            for depth, names in enumerate(reversed(groups), start=1):
                state = StageState(True, lr / self.lr_divisor**depth) if depth <= count else FROZEN
                states |= {f"{stream}.{name}": state for name in names}
        return states
