"""Schedules: what a learning rate is multiplied with at each step; pure functions, so a run can begin anywhere in them.

A named schedule is checked against torch's own class in the tests. A callable makes any scheduler of torch instead.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from zoo.contracts.method import Plan
from zoo.errors import ConfigError, UnknownName, nearest
from zoo.strict import check_options
from zoo.training.planning.groups import rate_in

__all__ = [
    "SCHEDULES",
    "Rates",
    "Schedule",
    "Shape",
    "check_schedule",
    "make_scheduler",
    "rates_of",
    "renew",
    "shape_of",
]

Schedule = str | Callable[[Optimizer, int], LRScheduler]
"""The name of a schedule, or a function of the optimizer and the number of its steps that gives torch's scheduler."""

Values = Callable[[], Sequence[float]]
"""Gives the validation value of each epoch so far by which the best is chosen, turned so that more is better."""


@dataclass(frozen=True)
class Shape(ABC):
    """A schedule without rates: what they are multiplied with. Its settings are its fields."""

    warmup: ClassVar[float] = 0.05
    """Share of the steps that warms up where the user sets none."""
    judges: ClassVar[bool] = False
    """Whether it needs the values of epochs."""

    def rise(self, step: int, rising: int) -> float:
        """Give the factor while it warms up: a straight line to 1."""
        return (step + 1) / rising

    @abstractmethod
    def fall(self, through: float, values: Sequence[float]) -> float:
        """Give the factor after it has warmed up.

        Args:
            through: How much of the rest of the steps is over, in ``[0, 1]``.
            values: The value of each whole epoch since it began, more is better.
        """

    def factor(self, step: int, steps: int, rising: int, values: Sequence[float]) -> float:
        """Give the factor at a step, of ``steps`` of which the first ``rising`` warm up."""
        if step < rising:
            return self.rise(step, rising)
        return self.fall(min(1.0, (step - rising) / max(1, steps - rising)), values)


@dataclass(frozen=True)
class Constant(Shape):
    """Stays as it is."""

    def fall(self, through: float, values: Sequence[float]) -> float:
        """Give 1."""
        return 1.0


@dataclass(frozen=True)
class Linear(Shape):
    """Falls in a straight line, as torch's ``LinearLR``.

    Args:
        floor: Share of the rate that is left at the end, in ``[0, 1]``.
    """

    floor: float = 0.0

    def __post_init__(self) -> None:
        """Check the share."""
        _check("floor", self.floor, 0, 1)

    def fall(self, through: float, values: Sequence[float]) -> float:
        """Give the height of the line."""
        return 1 - (1 - self.floor) * through


@dataclass(frozen=True)
class Cosine(Linear):
    """Falls as half a cosine, as torch's ``CosineAnnealingLR``.

    Args:
        floor: Share of the rate that is left at the end, in ``[0, 1]``.
    """

    def fall(self, through: float, values: Sequence[float]) -> float:
        """Give the height of the cosine."""
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * through)) / 2


@dataclass(frozen=True)
class OneCycle(Shape):
    """Rises as half a cosine and falls as another, as torch's ``OneCycleLR``; momentum stays as it is.

    Args:
        start: Share of the highest rate at which it begins, in ``(0, 1]``.
        end: Share of the highest rate at which it ends, in ``[0, 1]``.

    Source:
        Smith and Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates", 2017,
        arXiv:1708.07120. As in torch, it rises and falls by cosines; ours leaves momentum alone.
    """

    start: float = 1 / 25
    end: float = 1 / 250_000

    warmup = 0.3

    def __post_init__(self) -> None:
        """Check the shares."""
        _check("start", self.start, 0, 1)
        _check("end", self.end, 0, 1)

    def factor(self, step: int, steps: int, rising: int, values: Sequence[float]) -> float:
        """Give the factor; the top is reached in the last step that rises, the end in the last of all."""
        if step < rising - 1:
            return _cosine(self.start, 1.0, step / (rising - 1))
        return _cosine(1.0, self.end, min(1.0, (step - rising + 1) / max(1, steps - rising)))

    def fall(self, through: float, values: Sequence[float]) -> float:
        """Give the factor after the top."""
        return _cosine(1.0, self.end, through)


@dataclass(frozen=True)
class Plateau(Shape):
    """Falls by a factor whenever the validation value does not get better, as torch's ``ReduceLROnPlateau``.

    Args:
        drop: What the rate is multiplied with, in ``(0, 1)``.
        patience: Epochs without a better one that are borne; after one more the rate falls.
        threshold: By how much more than the best a value must be to be better, 0 or more.
    """

    drop: float = 0.1
    patience: int = 2
    threshold: float = 0.0

    judges = True

    def __post_init__(self) -> None:
        """Check the settings."""
        _check("drop", self.drop, 0, 1)
        _check("threshold", self.threshold, 0, math.inf)
        if self.drop in (0, 1):
            raise ConfigError(f"drop must be above 0 and below 1, got {self.drop!r}.")
        if isinstance(self.patience, bool) or not isinstance(self.patience, int) or self.patience < 0:
            raise ConfigError(f"patience of the schedule must be a whole number, 0 or more, got {self.patience!r}.")

    def fall(self, through: float, values: Sequence[float]) -> float:
        """Give the product of the drops so far."""
        best, waited, drops = -math.inf, 0, 0
        for value in values:
            better = value > best + self.threshold
            best, waited = (value, 0) if better else (best, waited + 1)
            if waited > self.patience:
                drops, waited = drops + 1, 0
        return float(self.drop**drops)


SCHEDULES: dict[str, type[Shape]] = {
    "constant": Constant,
    "cosine": Cosine,
    "linear": Linear,
    "one_cycle": OneCycle,
    "plateau": Plateau,
}


class Rates:
    """The rate of each group at each step: a pure function of the step and of the values of the epochs so far.

    Args:
        plan: What trains when, at what rate.
        shape: What the rates are multiplied with.
        steps: Optimizer steps of the whole run, 1 or more, a multiple of ``epochs``.
        epochs: Epochs of the whole run, 1 or more.
        warmup: Share of the steps that warms up, in ``[0, 1)``; of each part, where the plan restarts.
    """

    def __init__(self, plan: Plan, shape: Shape, *, steps: int, epochs: int, warmup: float) -> None:
        self._plan, self._shape, self._warmup = plan, shape, warmup
        self._steps, self._epochs = steps, epochs
        self._bounds = (0, *sorted(plan.restarts), epochs)

    def epoch(self, step: int) -> int:
        """Give the epoch of a step, counted from 0."""
        return step * self._epochs // self._steps

    def rate(self, group: Mapping[str, Any], step: int, values: Sequence[float] = ()) -> float:
        """Give the rate of a group at a step.

        Args:
            group: As :func:`zoo.training.planning.groups.parameter_groups` gives it.
            step: Number of the step, counted from 0.
            values: The value of each epoch before; those of the last may be missing while it is not yet measured.
        """
        epoch = min(self.epoch(step), self._epochs - 1)
        known = values[:epoch]
        states = self._plan.at(epoch if self._plan.patience is None else len(known), known)
        part = bisect_right(self._bounds, epoch) - 1
        first, last = (bound * self._steps // self._epochs for bound in self._bounds[part : part + 2])
        rising = math.ceil((last - first) * self._warmup)
        since = known[self._bounds[part] :]
        return rate_in(group, states) * self._shape.factor(step - first, last - first, rising, since)


def rates_of(
    plan: Plan, schedule: str, settings: Mapping[str, Any], steps: int, epochs: int, warmup: float | None
) -> Rates:
    """Give the rates of a plan under a named schedule.

    Args:
        plan: What trains when.
        schedule: The name.
        settings: Its settings.
        steps: Optimizer steps of the whole run.
        epochs: Epochs of the whole run.
        warmup: Share of the steps that warms up; None for the schedule's own.
    """
    shape = shape_of(schedule, settings)
    return Rates(plan, shape, steps=steps, epochs=epochs, warmup=shape.warmup if warmup is None else warmup)


def check_schedule(schedule: Schedule, settings: Mapping[str, Any], warmup: float | None) -> None:
    """Refuse a schedule that could not be made, before any data is read.

    Raises:
        UnknownName: If there is no such schedule, or a setting is not known.
        ConfigError: If a setting cannot be used, or does not go with a callable.
    """
    if isinstance(schedule, str):
        shape_of(schedule, settings)
    elif not callable(schedule):
        raise ConfigError(
            f"schedule must be a name or a function of an optimizer and a number of steps, got {schedule!r}."
        )
    elif settings or warmup is not None:
        raise ConfigError("schedule is a function, which has its own settings and warm-up; leave those of zoo.fit out.")


def shape_of(schedule: str, settings: Mapping[str, Any]) -> Shape:
    """Make a named schedule.

    Raises:
        UnknownName: If there is none, or a setting is not known.
        ConfigError: If a setting cannot be used.
    """
    if schedule not in SCHEDULES:
        near = nearest(schedule, SCHEDULES) or list(SCHEDULES)
        raise UnknownName(f"No schedule is called {schedule!r}; choose of {', '.join(near)}.")
    kind = SCHEDULES[schedule]
    check_options(f"The schedule {schedule!r}", settings, {field.name for field in fields(kind)})
    return kind(**settings)


def check_own(plan: Plan) -> None:
    """Refuse a plan that a scheduler which knows nothing of it cannot follow.

    Raises:
        ConfigError: If the plan restarts, or the rate of a stage changes while it trains.
    """
    if plan.restarts:
        raise ConfigError("The method begins its schedule anew, which a function cannot know; name a schedule instead.")
    for stage in sorted(plan.stages()):
        if len({state for state in plan.states_of(stage) if state.trainable}) > 1:
            raise ConfigError(
                f"The method changes the rate of {stage} from epoch to epoch, which a function cannot know; name a "
                "schedule instead."
            )


def make_scheduler(
    schedule: Callable[[Optimizer, int], LRScheduler] | Rates, optimizer: Optimizer, steps: int, values: Values
) -> LRScheduler:
    """Make torch's scheduler of an optimizer.

    Args:
        schedule: The rates, or a function that makes a scheduler.
        optimizer: Its groups are those of :func:`zoo.training.planning.groups.parameter_groups`.
        steps: Optimizer steps of the whole run.
        values: Gives the values of the epochs so far.

    Raises:
        ConfigError: If the function gives something else, or what follows another measure than the step.
    """
    if isinstance(schedule, Rates):
        return LambdaLR(optimizer, [_factor(schedule, group, values) for group in optimizer.param_groups])
    made = schedule(optimizer, steps)
    if isinstance(made, ReduceLROnPlateau):
        raise ConfigError("ReduceLROnPlateau is stepped by a metric; take schedule='plateau', which does the same.")
    if not isinstance(made, LRScheduler):
        raise ConfigError(f"schedule must give a scheduler of torch, got {type(made).__name__}.")
    return made


def renew(scheduler: LRScheduler) -> None:
    """Set the rates of its step again, for values of an epoch that were not there when it stepped."""
    if not isinstance(scheduler, LambdaLR):
        return
    rates = [
        base * factor(scheduler.last_epoch)
        for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    ]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates


def _factor(rates: Rates, group: Mapping[str, Any], values: Values) -> Callable[[int], float]:
    highest = group.get("initial_lr", group["lr"])
    slot = {key: group[key] for key in ("stage", "block", "blocks", "part", "own") if key in group}
    return lambda step: rates.rate(slot, step, values()) / float(highest)


def _cosine(start: float, end: float, through: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * through)) / 2


def _check(what: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ConfigError(f"{what} of the schedule must be a number from {low} to {high}, got {value!r}.")
