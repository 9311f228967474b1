"""Heads that learn from the training rows' features themselves, such as the mean of each class."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from zoo.contracts.features import Features
from zoo.contracts.method import Plan
from zoo.data import placed
from zoo.freezing import is_pinned
from zoo.model import Model
from zoo.training.following import follow
from zoo.training.planning.groups import stage_of
from zoo.training.rows.batches import Collator, Row
from zoo.training.step import Step

__all__ = ["LearnAgain", "learn_features", "listening", "rest"]

log = logging.getLogger("zoo")


def learn_features(model: Model, rows: Dataset[Row], *, batch_size: int, place: torch.device) -> None:
    """Show all training rows to the tasks that learn from features; nothing is run where there is none.

    Each sees what it is called with, so that a task inside other heads learns from what those give it.

    Args:
        model: The model.
        rows: The training rows.
        batch_size: Rows in one pass, 1 or more.
        place: Where to run.

    Raises:
        DataError: If the rows do not teach what a task needs.
    """
    learners = {name: task for name, task in model.tasks().items() if task.learns_features and not is_pinned(task)}
    if not learners:
        return
    was_training = model.training
    objective = Step(model.eval()).to(place)
    try:
        with torch.no_grad(), listening(model) as seen:
            for batch in DataLoader(rows, batch_size=batch_size, collate_fn=Collator(model.preparers())):
                here = placed(batch, place)
                objective.run(here.get("inputs"), here.get("features"))
                for name, task in learners.items():
                    task.learn(seen[name], here["targets"][name])
    finally:
        model.train(was_training)
    for task in learners.values():
        task.learnt()


@contextmanager
def listening(model: Model) -> Iterator[dict[str, Features]]:
    """Give, for each task that learns from features, those that it was last called with; filled by each pass."""
    seen: dict[str, Features] = {}
    hooks = [
        task.register_forward_pre_hook(partial(_keep, seen, name))
        for name, task in model.tasks().items()
        if task.learns_features
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _keep(seen: dict[str, Features], name: str, task: nn.Module, given: tuple[Any, ...]) -> None:
    """Note the features of the stream that a task reads."""
    seen[name] = given[0][task.stream]


class LearnAgain(TrainerCallback):
    """Lets tasks learn from features anew after each epoch, before it is judged; what is below them may have changed.

    Args:
        model: The model.
        rows: The training rows.
        batch_size: Rows in one pass.
        place: Where to run.
    """

    def __init__(self, model: Model, rows: Dataset[Row], *, batch_size: int, place: torch.device) -> None:
        self._again = partial(learn_features, model, rows, batch_size=batch_size, place=place)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Learn anew."""
        self._again()


def rest(model: Model, plan: Plan) -> bool:
    """Find out whether there is nothing to train by gradient, heads without parameters on backbones that rest.

    Where that is so, the backbones are frozen as the plan says.

    Args:
        model: The model.
        plan: What trains when.
    """
    never = plan.never_trained()
    heads = any(True for head in model.heads.values() for _ in head.parameters())
    if heads or any(stage_of(model, name) not in never for name, _ in model.named_parameters()):
        return False
    follow(model, plan, 0)
    log.info("The heads have no parameters and the backbones rest: nothing is trained by gradient, no epoch is run.")
    return True
