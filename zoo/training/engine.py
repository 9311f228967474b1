"""The engine: ``transformers.Trainer``, told what zoo knows: groups, schedule, metrics.

The model stays a plain module that any other loop could train; what is here is glue.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerState

from zoo.bundle.checkpoints import Checkpoint
from zoo.contracts.method import Plan
from zoo.model import Model
from zoo.training.dividing import DividedBatches, turns
from zoo.training.judging.averaging import Averaging
from zoo.training.judging.evaluation import measure
from zoo.training.judging.history import History
from zoo.training.planning.groups import HEADS, check_groups, own_groups, parameter_groups
from zoo.training.planning.optimizers import make_optimizer
from zoo.training.planning.schedules import make_scheduler, rates_of
from zoo.training.planning.settings import Settings
from zoo.training.resuming.checkpointing import Keeper
from zoo.training.resuming.randomness import generators, take_up_generators
from zoo.training.rows.batches import view_seed
from zoo.training.sharding import Sharding, divided_state, gathered
from zoo.training.step import Step
from zoo.training.watching import Diverged, check_finite, take_rows

__all__ = ["Engine"]


class Engine(Trainer):
    """The Trainer with zoo's groups, schedule and metrics.

    Args:
        step: What to train.
        plan: What trains when.
        run: The user's settings: the optimizer, the schedule and theirs.
        history: Where the epochs so far are written, by whose values a schedule or a plan may go.
        keeper: What keeps checkpoints; None for none.
        averaging: The moving average of the weights, by which the model is judged; None for none.
        sampler: What draws the training rows; None for each once an epoch, in an order of the seed.
        sharding: What has the model in pieces; None for a model that is whole in each process.
        more: What the Trainer takes.
    """

    optimizer: Any
    lr_scheduler: Any
    control: Any

    def __init__(
        self,
        step: Step,
        plan: Plan,
        *,
        run: Settings,
        history: History,
        keeper: Keeper | None = None,
        averaging: Averaging | None = None,
        sampler: Sampler[int] | None = None,
        sharding: Sharding | None = None,
        **more: Any,
    ) -> None:
        self.plan = plan
        self._run, self._history = run, history
        self._keeper = keeper
        self._averaging = averaging
        self._sampler = sampler
        self._sharding = sharding
        self._resumed: Checkpoint | None = None
        self._batches: list[tuple[list[int] | None, Tensor]] = []
        self._resting: list[nn.Parameter] = []
        self.ranks = step.ranks
        self._objective = step.objective
        step.later = bool(plan.stages() - plan.never_trained() - {HEADS})
        super().__init__(model=step, **more)
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        if self.ranks.number:  # the first process draws as if it were alone, the others have dropouts of their own
            set_seed(view_seed(run.seed, self.ranks.number, -1) % 2**32)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        drawn: Sampler[int] | None = super()._get_train_sampler(train_dataset)
        return self._sampler if self._sampler is not None else drawn

    def get_train_dataloader(self) -> Any:
        """Give this process's part of the batches; one process has them whole."""
        if not self.ranks.several:
            return super().get_train_dataloader()
        rows: Any = self.train_dataset
        drawn = self._sampler if self._sampler is not None else SeedableRandomSampler(rows, data_seed=self.args.seed)
        batches = DividedBatches(
            drawn,
            len(rows),
            batch_size=self._train_batch_size,
            ranks=self.ranks,
            epoch=lambda: int(self.state.epoch or 0),
        )
        return self._loader(rows, batch_sampler=batches)

    def _loader(self, rows: Any, **how: Any) -> DataLoader[Any]:
        args = self.args
        return DataLoader(
            rows,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            **how,
        )

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimizer over the plan's groups, each with its own rate."""
        if self.optimizer is None:
            decay = self.args.weight_decay
            groups = parameter_groups(self._zoo_model(), self.plan, weight_decay=decay)
            groups += own_groups(self._objective, self._run.lr, weight_decay=decay)
            self.optimizer = make_optimizer(self._run.optimizer, groups, self._run.optimizer_settings)
            check_groups(self._zoo_model(), self.optimizer.param_groups, groups, self._objective)
        if self.ranks.several and self._sharding is None:
            # DDP listens, for good, to the gradients of what requires one when it wraps the model, which is now. What
            # only a later epoch trains would be left out, and each process would go its own way with it. What then
            # rests for a while has no gradient, which DDP finds out in each pass (find_unused_parameters, the
            # Trainer's default, always, since libraries have parameters that no pass uses): it costs a walk over the
            # graph, and no wrapping anew, for which the Trainer has no place.
            every = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            self._resting = [parameter for parameter in every if not parameter.requires_grad]
            for parameter in self._resting:
                parameter.requires_grad_(True)
        return self.optimizer

    # --- a model in pieces is placed and prepared by who divided it, and DDP has no part in it

    def whole(self) -> AbstractContextManager[None]:
        """Have the model whole in every process for as long as the context is open; all must do so at once."""
        return nullcontext() if self._sharding is None else self._sharding.whole()

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        if self._sharding is None:
            super()._move_model_to_device(model, device)

    def _wrap_model(self, model: Any, training: bool = True) -> Any:
        if self._sharding is None:
            return super()._wrap_model(model, training)
        return self.accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)  # autocast alone

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """Make the schedule: for each group a pure function of the step and of how the epochs so far went."""
        while self._resting:  # the model is wrapped by now
            self._resting.pop().requires_grad_(False)
        if self.lr_scheduler is None:
            run = self._run
            how = run.schedule
            rates = (
                rates_of(self.plan, how, run.schedule_settings, num_training_steps, run.epochs, run.warmup)
                if isinstance(how, str)
                else how
            )
            self.lr_scheduler = make_scheduler(rates, optimizer or self.optimizer, num_training_steps, self.values)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Run a batch forward and backward, and note its rows and its loss."""
        rows = take_rows(inputs)
        if self._objective is not None:
            inputs["rows"] = torch.tensor(rows)
            self.accelerator.unwrap_model(self.model).done = self.state.global_step, self.state.max_steps
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._batches.append((rows, loss))
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Give the gradient's norm, and stop where it or a loss is no finite number.

        Called once an optimizer step, before it, so that a device is waited for once. With fp16 an infinite norm is
        usual: the scaler leaves such a step out.

        Raises:
            Diverged: If one is not; no weight has changed then.
        """
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        norm = gathered(norm, keep=True)
        batches, self._batches = self._batches, []
        found = None
        try:
            check_finite(batches, norm if self.accelerator.scaler is None else None)
        except Diverged as error:
            if not self.ranks.several:
                raise
            found = error
        if self.ranks.several:
            self._agree(found)
        return norm

    def _agree(self, found: Diverged | None) -> None:
        """Stop in all processes if one must, or note that the user asked one of them to; once an optimizer step.

        Raises:
            Diverged: The loss that is no number, of whichever process; else the gradient.
        """
        interrupts = self._keeper.interrupts if self._keeper is not None else None
        told = [float(found is not None), float(interrupts is not None and interrupts.heard_here)]
        bad, asked = self.ranks.sum(torch.tensor(told, device=self.args.device)).tolist()
        if interrupts is not None and asked:
            interrupts.asked = True
        if bad:
            every = self.ranks.every(None if found is None else (found.what, found.value, found.rows))
            raise Diverged(*min((one for one in every if one is not None), key=lambda one: one[0] != "loss"))

    def values(self) -> Sequence[float]:
        """Give what the epochs so far are judged by; more is better."""
        return self._history.values()

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Give the objective's loss, a mean over the batch."""
        result = model(**inputs)
        return (result["loss"], result) if return_outputs else result["loss"]

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Give all rows; a last batch of one is left out of training alone."""
        if self.ranks.several:
            rows: Any = eval_dataset if eval_dataset is not None else self.eval_dataset
            turn = turns(self._zoo_model(), len(rows), self.args.eval_batch_size, self.ranks)
            return self._loader(rows, batch_sampler=turn)
        dropped, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = dropped

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:
        """Measure all tasks by their own metrics, and tell the callbacks."""
        step = self.accelerator.unwrap_model(self.model)
        with self._averaging.applied() if self._averaging is not None else nullcontext():
            self.ranks.equalize(step.model.buffers())
            with self.whole(), self.autocast_smart_context_manager():
                loss, metrics = measure(
                    step.model,
                    self.get_eval_dataloader(eval_dataset),
                    lambda batch: step.run(batch.get("inputs"), batch.get("features")),
                    self.args.device,
                    ranks=self.ranks,
                )
            flat = {f"{metric_key_prefix}_loss": loss}
            flat |= {
                f"{metric_key_prefix}_{task}/{key}": v for task, part in metrics.items() for key, v in part.items()
            }
            self.log(flat)
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, flat)
        return flat

    # --- checkpoints: the Trainer's own are written in place and pickled in part, so that none of them is used

    def resume(self, checkpoint: Checkpoint | None) -> None:
        """Train from a checkpoint on; None for from the beginning."""
        self._resumed = checkpoint
        if checkpoint is None:
            self.train()
            return
        training = checkpoint.training
        with tempfile.TemporaryDirectory(prefix="zoo-resume-") as folder:
            state = TrainerState(
                global_step=training.step, epoch=training.epoch, train_batch_size=self._train_batch_size
            )
            state.compute_steps(self.args, training.steps)
            state.save_to_json(os.path.join(folder, "trainer_state.json"))  # what the Trainer asks a folder for
            self.train(resume_from_checkpoint=folder)

    def run_state(self) -> dict[str, Any]:
        """Give what a checkpoint keeps of the engine."""
        scaler = self.accelerator.scaler
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": _plain_schedule(self.lr_scheduler.state_dict()),
            "scaler": None if scaler is None else scaler.state_dict(),
            "objective": None if self._objective is None else dict(self._objective.state_dict()),
        }

    def own_state(self) -> dict[str, Any]:
        """Give what a checkpoint keeps of each process."""
        loss = {"now": self._tr_loss.cpu(), "all": self._total_loss_scalar, "since": self._globalstep_last_logged}
        return {"generators": generators(), "loss": loss}

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self._keeper is not None:
            self._keeper.save(self)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Leave the model as it is: the keeper has taken it up already."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self._resumed is not None:
            self.optimizer.load_state_dict(divided_state(self._resumed.state["optimizer"], self.optimizer))
            self.lr_scheduler.load_state_dict(dict(self._resumed.state["schedule"]))

    def _load_scaler(self, checkpoint: str | None) -> None:
        if self._resumed is not None and self.accelerator.scaler is not None and self._resumed.state["scaler"]:
            self.accelerator.scaler.load_state_dict(self._resumed.state["scaler"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Set the generators, and the sum of the losses since the last epoch; called right before the first batch."""
        if self._resumed is not None:
            state = self._resumed.state
            own = state if self.ranks.first else state["others"][self.ranks.number - 1]
            take_up_generators(own["generators"])
            loss = own["loss"]
            self._tr_loss = loss["now"].to(self.args.device, copy=True)
            self._total_loss_scalar = loss["all"]
            self._globalstep_last_logged = loss["since"]

    def _zoo_model(self) -> Model:
        return self.accelerator.unwrap_model(self.model).model


def _plain_schedule(state: Mapping[str, Any]) -> dict[str, Any]:
    """Leave functions out of a schedule's state: a run that goes on makes them anew."""
    found = dict(state)
    if "lr_lambdas" in found:
        found["lr_lambdas"] = [None] * len(found["lr_lambdas"])
    if "_schedulers" in found:
        found["_schedulers"] = [_plain_schedule(inner) for inner in found["_schedulers"]]
    return found
