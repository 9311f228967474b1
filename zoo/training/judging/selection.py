"""One number for several tasks, to choose the best epoch by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean

from zoo.contracts.head import Task
from zoo.errors import ConfigError
from zoo.training.judging.history import Metrics
from zoo.training.rows.masks import MaskTargets, Targets

__all__ = ["TASKS", "baselines", "check_tasks", "combined"]

TASKS = "tasks"
"""What ``select`` is where all tasks decide together."""


def check_tasks(tasks: Mapping[str, Task]) -> None:
    """Check that all tasks can decide together, before any data is read.

    Raises:
        ConfigError: If a task's deciding metric is better when less, and it gives no constant to compare with.
    """
    for name, task in tasks.items():
        metric, higher = task.best_metric
        if not higher and type(task).constant is Task.constant:
            raise ConfigError(
                f"select='tasks' needs a constant to compare the {metric} of {name!r} with, and its head "
                f"({task.spec.type}) gives none; choose one metric, such as '{name}/{metric}', or 'loss'."
            )


def baselines(
    tasks: Mapping[str, Task], train: Mapping[str, Targets], validation: Mapping[str, Targets]
) -> dict[str, float]:
    """Measure on the validation rows what a constant learnt from the training rows gives.

    Args:
        tasks: The model's tasks.
        train: Task name to encoded training targets.
        validation: Task name to encoded validation targets.

    Returns:
        Task name to its deciding metric, for those where less is better and that have labels in both parts.

    Raises:
        ConfigError: As :func:`check_tasks`, for a task whose settings decide whether it has a constant.
    """
    found = {}
    for name, task in tasks.items():
        metric, higher = task.best_metric
        learnt, checked = train[name], validation[name]
        if higher or isinstance(learnt, MaskTargets) or isinstance(checked, MaskTargets):
            continue
        known, held_out = learnt[task.known(learnt)], checked[task.known(checked)]
        if not len(known) or not len(held_out):
            continue
        constant = task.constant(known)
        if constant is None:
            raise ConfigError(f"select='tasks' needs a constant of {name!r}; its head ({task.spec.type}) gives none.")
        metrics = task.metrics()
        task.update(metrics, constant.expand(len(held_out), *constant.shape), held_out)
        found[name] = float(metrics.compute()[metric])
    return found


def combined(tasks: Mapping[str, Task], metrics: Metrics, constant: Mapping[str, float]) -> float:
    """Give the mean of the tasks' scores; more is better.

    The score of a task is its deciding metric where more is better, else ``max(0, 1 - metric / constant)``: 0 if it is
    no better than a constant, 1 if nothing is wrong. A task without labels in the validation rows, or whose constant is
    right everywhere, is left out.

    Args:
        tasks: The model's tasks.
        metrics: Task name to metric name to value on the validation rows.
        constant: As :func:`baselines` gave them.

    Returns:
        The mean, NaN without any score.
    """
    scores = []
    for name, task in tasks.items():
        metric, higher = task.best_metric
        value = metrics.get(name, {}).get(metric)
        if value is None:
            continue
        if higher:
            scores.append(value)
        elif constant.get(name, 0.0) > 0:
            scores.append(max(0.0, 1 - value / constant[name]) if not math.isnan(value) else value)
    return fmean(scores) if scores else math.nan
