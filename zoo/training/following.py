"""What changes when an epoch begins: which stages train, and which views of the rows are given."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from zoo.contracts.method import FROZEN, Plan
from zoo.model import Model
from zoo.training.batches import ViewRows

__all__ = ["FollowPlan", "NewViews", "follow"]


class FollowPlan(TrainerCallback):
    """Freezes and unfreezes at the start of each epoch, as the plan says of that epoch.

    Args:
        model: The model.
        plan: What trains when.
    """

    def __init__(self, model: Model, plan: Plan) -> None:
        self._model = model
        self._plan = plan

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the stages of the epoch; nothing is carried over from the epoch before."""
        follow(self._model, self._plan, int(state.epoch or 0))


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
        if isinstance(self._rows, ViewRows):
            self._rows.epoch = int(state.epoch or 0)


def follow(model: Model, plan: Plan, epoch: int) -> None:
    """Make exactly the stages frozen that a plan freezes in an epoch."""
    states = plan.at(epoch)
    for stream, backbone in model.backbones.items():
        names = [stage.name for stage in backbone.spec.stages]
        frozen = frozenset(name for name in names if not states.get(f"{stream}.{name}", FROZEN).trainable)
        if frozen != model.frozen()[stream]:
            model.set_frozen(stream, frozen)
