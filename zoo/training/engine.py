"""The engine: ``transformers.Trainer``, told what zoo knows: groups, schedule, freezing, metrics, the best epoch.

The model stays a plain module that any other loop could train; what is here is glue.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from zoo.contracts.method import FROZEN, Plan
from zoo.model import Model
from zoo.training.batches import ViewRows
from zoo.training.evaluation import measure
from zoo.training.features import from_flat
from zoo.training.groups import HEADS, parameter_groups, schedule, trained_names
from zoo.training.history import EpochRow, History, Metrics
from zoo.training.selection import TASKS, combined

__all__ = ["BestEpoch", "Engine", "NewViews", "Objective"]

log = logging.getLogger("zoo")


class Objective(nn.Module):
    """A batch in, the loss and the outputs out: what the engine trains.

    Args:
        model: The model.
        later: Whether all backbones may rest for now, since a later epoch trains one; see ``Model.losses``.
    """

    def __init__(self, model: Model, *, later: bool = False) -> None:
        super().__init__()
        self.model = model
        self.later = later

    def forward(
        self,
        targets: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor] | None = None,
        features: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Any]:
        """Give the sum of the tasks' losses, and the outputs.

        Args:
            targets: Task name to encoded targets.
            inputs: Input name to pictures.
            features: Flat features that were computed before, instead of inputs.
        """
        outputs = self.run(inputs, features)
        losses = self.model.losses(outputs, targets, later=self.later)
        return {"loss": torch.stack(list(losses.values())).sum(), "outputs": outputs}

    def run(self, inputs: Mapping[str, Any] | None, features: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Give the outputs, from pictures or from features."""
        return self.model.score(from_flat(features)) if features is not None else self.model(inputs)


class Engine(Trainer):
    """The Trainer with zoo's groups, schedule and metrics.

    Args:
        objective: What to train.
        plan: What trains when.
        warmup: Share of the steps that warms up.
        more: What the Trainer takes.
    """

    optimizer: Any
    lr_scheduler: Any
    control: Any

    def __init__(self, objective: Objective, plan: Plan, *, warmup: float, **more: Any) -> None:
        self.plan = plan
        self._warmup = warmup
        objective.later = bool(plan.stages() - plan.never_trained() - {HEADS})
        super().__init__(model=objective, **more)
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make AdamW over the plan's groups, each with its own rate."""
        if self.optimizer is None:
            groups = parameter_groups(self._zoo_model(), self.plan, weight_decay=self.args.weight_decay)
            self.optimizer = torch.optim.AdamW(groups)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        """Make the schedule: a pure function of the step for each group."""
        if self.lr_scheduler is None:
            over = optimizer or self.optimizer
            factors = [
                schedule(self.plan, group["stage"], steps=num_training_steps, warmup=self._warmup)
                for group in over.param_groups
            ]
            self.lr_scheduler = LambdaLR(over, factors)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Give the objective's loss, a mean over the batch."""
        result = model(**inputs)
        return (result["loss"], result) if return_outputs else result["loss"]

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:
        """Measure all tasks by their own metrics, and tell the callbacks."""
        objective = self.accelerator.unwrap_model(self.model)
        with self.autocast_smart_context_manager():
            loss, metrics = measure(
                objective.model,
                self.get_eval_dataloader(eval_dataset),
                lambda batch: objective.run(batch.get("inputs"), batch.get("features")),
                self.args.device,
            )
        flat = {f"{metric_key_prefix}_loss": loss}
        flat |= {f"{metric_key_prefix}_{task}/{key}": v for task, part in metrics.items() for key, v in part.items()}
        self.log(flat)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, flat)
        return flat

    def _zoo_model(self) -> Model:
        return self.accelerator.unwrap_model(self.model).model


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
    """

    def __init__(
        self, model: Model, plan: Plan, history: History, *, select: str, higher: bool, patience: int | None
    ) -> None:
        self._model = model
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
        row = EpochRow(epoch, self._train_loss, metrics["eval_loss"], found)
        self._history.epochs.append(row)
        value = metrics.get(f"eval_{self._select}")
        if self._select == TASKS:
            value = combined(self._model.tasks(), found, self._history.baselines)
        known = value is not None and not math.isnan(value)
        rank = (value if self._higher else -value, -metrics["eval_loss"]) if known else None
        if rank is not None and (self._best is None or rank > self._best):
            self._best = rank
            self._history.best_epoch = epoch
            state_dict = self._model.state_dict()
            self._kept = {name: state_dict[name].detach().to("cpu", copy=True) for name in self._names}
        log.info("%s%s", describe(row), "  *" if self._history.best_epoch == epoch else "")
        if self._patience is not None and self._kept and epoch - self._history.best_epoch >= self._patience:
            log.info("No better epoch for %d; stopping.", self._patience)
            control.should_training_stop = True

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
    """

    def __init__(self, history: History) -> None:
        self._history = history

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Write the epoch down."""
        if logs and "loss" in logs:
            row = EpochRow(round(state.epoch or 0), float(logs["loss"]))
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
    return "  ".join(parts)


def _by_task(flat: Mapping[str, float]) -> Metrics:
    found: Metrics = {}
    for key, value in flat.items():
        task, slash, metric = key.removeprefix("eval_").partition("/")
        if slash:
            found.setdefault(task, {})[metric] = value
    return found
