"""The engine: ``transformers.Trainer``, told what zoo knows: groups, schedule, metrics.

The model stays a plain module that any other loop could train; what is here is glue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from zoo.contracts.method import Plan
from zoo.model import Model
from zoo.training.evaluation import measure
from zoo.training.features import from_flat
from zoo.training.groups import HEADS, parameter_groups, schedule

__all__ = ["Engine", "Objective"]


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
