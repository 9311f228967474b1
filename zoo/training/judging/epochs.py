"""What is noted when an epoch ends: its losses and metrics, and the weights of the best one."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from zoo.contracts.method import Plan
from zoo.contracts.objective import Objective
from zoo.model import Model
from zoo.training.judging.clock import EpochClock
from zoo.training.judging.history import EpochRow, History, Metrics
from zoo.training.judging.selection import TASKS, combined
from zoo.training.planning.groups import trained_names

__all__ = ["BestEpoch", "LastEpoch", "describe"]

log = logging.getLogger("zoo")


class BestEpoch(TrainerCallback):
    """Keeps the weights of the best epoch, stops when no better one comes, and tells each epoch in one line.

    Args:
        model: The model.
        plan: What trains when; what it never trains needs no copy.
        history: Where the epochs are written.
        select: What decides, ``loss``, ``tasks`` or ``task/metric``; of equal epochs the one with the lower loss is
            better.
        higher: Whether more of it is better.
        patience: Epochs without a better one before it stops; None for never.
        clock: What times the epochs.
        objective: What the run trains beside the heads' losses; None for these alone.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        history: History,
        *,
        select: str,
        higher: bool,
        patience: int | None,
        clock: EpochClock,
        objective: Objective | None = None,
    ) -> None:
        self._model = model
        self._objective = objective
        self._clock = clock
        self._names = trained_names(model, plan)
        self._history = history
        self._select, self._higher, self._patience = select, higher, patience
        self._best: tuple[float, float] | None = None
        self._kept: dict[str, Tensor] = {}
        self._train_loss = float("nan")

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Remember the epoch's training loss."""
        if logs and "loss" in logs:
            self._train_loss = float(logs["loss"])

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Write the epoch down, and keep its weights if it is the best so far."""
        epoch = round(state.epoch or 0)
        found = _by_task(metrics)
        value = metrics.get(f"eval_{self._select}")
        if self._select == TASKS:
            value = combined(self._model.tasks(), found, self._history.baselines)
        known = value is not None and not math.isnan(value)
        rank = (value if self._higher else -value, -metrics["eval_loss"]) if known else None
        score = None if rank is None else float(rank[0])
        told = _measured(self._objective)
        row = EpochRow(epoch, self._train_loss, metrics["eval_loss"], found, score, *self._clock.read(), told)
        self._history.epochs.append(row)
        if rank is not None and (self._best is None or rank > self._best):
            self._best = rank
            self._history.best_epoch = epoch
            state_dict = self._model.state_dict()
            self._kept = {name: state_dict[name].detach().to("cpu", copy=True) for name in self._names}
        log.info("%s%s", describe(row), "  *" if self._history.best_epoch == epoch else "")
        if self._patience is not None and self._kept and epoch - self._history.best_epoch >= self._patience:
            log.info("No better epoch for %d; stopping.", self._patience)
            control.should_training_stop = True

    def state(self) -> dict[str, Any]:
        """Give what a checkpoint keeps."""
        return {"best": self._best, "kept": dict(self._kept)}

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        self._best, self._kept = state["best"], dict(state["kept"])

    @property
    def has_best(self) -> bool:
        """Whether there is a best epoch."""
        return bool(self._kept)

    def restore(self) -> None:
        """Give the model the weights of the best epoch; without any it keeps the last one's."""
        if self._kept:
            self._model.load_state_dict(self._kept, strict=False)
        else:
            self._history.best_epoch = len(self._history.epochs)


class LastEpoch(TrainerCallback):
    """Writes the epochs down where there are no validation rows to choose by.

    Args:
        history: Where the epochs are written.
        clock: What times the epochs.
        objective: What the run trains beside the heads' losses; None for these alone.
    """

    def __init__(self, history: History, clock: EpochClock, objective: Objective | None = None) -> None:
        self._history = history
        self._objective = objective
        self._clock = clock

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Write the epoch down."""
        if logs and "loss" in logs:
            seconds, memory = self._clock.read()
            told = _measured(self._objective)
            row = EpochRow(round(state.epoch or 0), float(logs["loss"]), seconds=seconds, memory=memory, measures=told)
            self._history.epochs.append(row)
            self._history.best_epoch = row.epoch
            log.info("%s", describe(row))


def describe(row: EpochRow) -> str:
    """Write an epoch as one line."""
    parts = [f"epoch {row.epoch:>3}", f"train loss {row.train_loss:.4f}"]
    if row.validation_loss is not None:
        parts.append(f"validation loss {row.validation_loss:.4f}")
    for task, metrics in row.validation.items():
        parts.append(f"{task}: " + " ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    parts += [f"{name} {value:.4g}" for name, value in row.measures.items()]
    return "  ".join(parts)


def _measured(objective: Objective | None) -> dict[str, float]:
    return {} if objective is None else {name: float(value) for name, value in objective.epoch_ended().items()}


def _by_task(flat: Mapping[str, float]) -> Metrics:
    found: Metrics = {}
    for key, value in flat.items():
        task, slash, metric = key.removeprefix("eval_").partition("/")
        if slash:
            found.setdefault(task, {})[metric] = value
    return found
