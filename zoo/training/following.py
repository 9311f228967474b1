"""What changes when an epoch begins: which stages train, at what rate, and which views of the rows are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from zoo.contracts.blocks import part_of
from zoo.contracts.method import FROZEN, Plan, StageState
from zoo.contracts.objective import Objective
from zoo.freezing import freeze_stages
from zoo.model import Model
from zoo.training.judging.history import History
from zoo.training.planning.groups import HEADS, selects, stage_of
from zoo.training.planning.schedules import renew
from zoo.training.rows.asked import AskedRows
from zoo.training.rows.batches import FeatureRows, ViewRows

__all__ = ["FollowPlan", "FollowSteps", "NewViews", "follow"]


class FollowPlan(TrainerCallback):
    """Freezes and unfreezes at the start of each epoch, as the plan says of that epoch.

    Args:
        model: The model.
        plan: What trains when.
        history: Where the epochs so far are written, by whose values a plan may go.
    """

    def __init__(self, model: Model, plan: Plan, history: History) -> None:
        self._model = model
        self._plan = plan
        self._history = history

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the stages and the rates of the epoch; nothing is carried over from the epoch before."""
        epoch = int(state.epoch or 0)
        follow(self._model, self._plan, epoch, self._history.values()[:epoch])
        if kwargs.get("lr_scheduler") is not None:
            renew(kwargs["lr_scheduler"])


class FollowSteps(TrainerCallback):
    """Tells an objective of each optimizer step.

    Args:
        objective: What a method trains.
        model: The model.
    """

    def __init__(self, objective: Objective, model: Model) -> None:
        self._objective = objective
        self._model = model

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Let it follow the step."""
        with torch.no_grad():
            self._objective.stepped(self._model, state.global_step / max(1, state.max_steps))


class NewViews(TrainerCallback):
    """Tells training views which epoch begins; rows without views need not know.

    Args:
        rows: The training rows.
    """

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the epoch before the first row is asked for; workers are started after it."""
        if isinstance(self._rows, (AskedRows, FeatureRows, ViewRows)):
            self._rows.epoch = int(state.epoch or 0)


def follow(model: Model, plan: Plan, epoch: int, values: Sequence[float] = ()) -> None:
    """Make exactly that train which a plan trains in an epoch.

    Args:
        model: The model.
        plan: What trains when.
        epoch: The epoch, counted from 0.
        values: The value of each epoch before, for a plan that goes by them; see :meth:`zoo.Plan.phase`.
    """
    states = plan.at(epoch, values)
    for stream, backbone in model.backbones.items():
        names = [stage.name for stage in backbone.spec.stages]
        frozen = frozenset(name for name in names if not states.get(f"{stream}.{name}", FROZEN).trainable)
        every = [state for name in names for state in plan.states_of(f"{stream}.{name}")]
        divided = any(state.train != "all" for state in every) or len(backbone.adapters) > 0
        if frozen != model.frozen()[stream] or divided:
            model.set_frozen(stream, frozen)
        if divided:
            _divide(model, stream, frozen, states)
    if any(not state.trainable for state in plan.states_of(HEADS)):
        for name, head in model.heads.items():
            head.requires_grad_(states.get(HEADS, FROZEN).trainable and name not in model.frozen_heads)
    model.rates = {stage: state.lr for stage, state in states.items() if state.trainable}


def _divide(model: Model, stream: str, frozen: frozenset[str], states: Mapping[str, StageState]) -> None:
    """Let only those parameters of a stream's stages train that the states choose, and pin the norms above them."""
    backbone = model.backbones[stream]
    resting = [
        stage.name
        for stage in backbone.spec.stages
        if states.get(f"{stream}.{stage.name}", FROZEN).train != "all" and stage.name not in frozen
    ]
    freeze_stages(backbone, frozen, {**dict.fromkeys(resting, False), **model.pinned_norms.get(stream, {})})
    for name, parameter in backbone.named_parameters():
        state = states.get(stage_of(model, f"backbones.{stream}.{name}"), FROZEN)
        part = part_of(name)
        chosen = state.trainable and selects(state.train, part)
        if part == "adapters" or not chosen:
            parameter.requires_grad_(chosen)
        if not chosen:
            parameter.grad = None
