"""When a run's checkpoints are written, what they have of it, and how a run takes one up again."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from zoo.bundle.checkpoints import Checkpoint, Resting, write_checkpoint
from zoo.bundle.manifest import Training
from zoo.contracts.objective import Objective
from zoo.errors import BundleError
from zoo.model import Model
from zoo.training.judging.averaging import Averaging
from zoo.training.judging.epochs import BestEpoch
from zoo.training.judging.history import EpochRow, History
from zoo.training.judging.records import write_records
from zoo.training.linear.layers import without_scales
from zoo.training.resuming.interrupting import Interrupted, Interrupts
from zoo.training.resuming.runfolder import RunFolder
from zoo.training.sharding import divided, gathered

if TYPE_CHECKING:
    from zoo.training.engine import Engine

__all__ = ["Keeper"]

log = logging.getLogger("zoo")


class Keeper(TrainerCallback):
    """Has checkpoints written at the end of each epoch, after every so many steps, and when the user interrupts.

    Args:
        folder: The run's folder.
        model: The model.
        run: What identifies the run.
        resting: What the run never changes.
        history: The run's.
        every: Optimizer steps from one checkpoint to the next; None for epochs' ends only.
        interrupts: Whether the user asked the run to end.
    """

    def __init__(
        self,
        folder: RunFolder,
        model: Model,
        run: Mapping[str, Any],
        resting: Resting,
        history: History,
        *,
        every: int | None,
        interrupts: Interrupts,
    ) -> None:
        self.folder = folder
        self.interrupts = interrupts
        self.judge: BestEpoch | None = None
        """What keeps the best epoch's weights; the run sets it before the engine begins."""
        self.averaging: Averaging | None = None
        """The moving average of the weights; the run sets it before the engine begins."""
        self.objective: Objective | None = None
        """What a method trains beside the heads' losses; the run sets it before the engine begins."""
        self.spent = 0.0
        """Seconds that earlier processes spent on the run."""
        self._model, self._run, self._resting, self._history = model, run, resting, history
        self._every = every
        self._begun = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Clear up what a killed writer left."""
        if state.is_world_process_zero:
            self.folder.tidy()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Have a checkpoint written where one is due; the last step of an epoch leaves that to the epoch's end."""
        due = self.interrupts.asked or (self._every is not None and state.global_step % self._every == 0)
        epoch = state.epoch or 0.0
        if due and epoch != round(epoch):
            control.should_save = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Have a checkpoint written, once the epoch is judged."""
        control.should_save = True

    def save(self, engine: Engine) -> None:
        """Write a checkpoint of the engine as it is; one that cannot be written is said, and training goes on.

        Raises:
            Interrupted: If the user asked the run to end.
        """
        step, told = engine.state.global_step, None
        own, *others = engine.ranks.every(engine.own_state())
        state = {**gathered(self._state(engine), keep=engine.args.should_save), **own, "others": others}
        with engine.whole():
            if engine.args.should_save:
                told = self._written(engine, state)
        engine.accelerator.wait_for_everyone()
        if self.interrupts.asked:
            kept = f"{self.folder.place(step)} has it." if told is None else f"it could not be kept: {told}"
            raise Interrupted(f"The run was interrupted after step {step} of {engine.state.max_steps}; {kept}")

    def _written(self, engine: Engine, state: Mapping[str, Any]) -> str | None:
        """Write a checkpoint, and give why it could not be written; None if it was."""
        try:
            self._write(engine, state)
        except (BundleError, OSError) as error:
            step = engine.state.global_step
            log.warning("No checkpoint of step %d: %s Those before it are intact; training goes on.", step, error)
            return str(error)
        return None

    def _write(self, engine: Engine, kept: Mapping[str, Any]) -> None:
        self.folder.path.mkdir(parents=True, exist_ok=True)
        write_records(self.folder.path, self._history.epochs)
        state = engine.state
        training = Training(
            step=state.global_step,
            steps=state.max_steps,
            epoch=float(state.epoch or 0.0),
            epochs=int(state.num_train_epochs),
            finished=bool(engine.control.should_training_stop),
            run=dict(self._run),
        )
        path = self.folder.place(state.global_step)
        with without_scales(self._model) as scaled:
            write_checkpoint(self._model, path, training, {**kept, "scaled": scaled}, self._resting)
        self.folder.tidy()

    def _state(self, engine: Engine) -> dict[str, Any]:
        return {
            **engine.run_state(),
            "history": {"epochs": [asdict(row) for row in self._history.epochs], "best": self._history.best_epoch},
            "judge": None if self.judge is None else self.judge.state(),
            "average": None if self.averaging is None else self.averaging.state(),
            "seconds": self.spent + time.monotonic() - self._begun,
        }

    def take_up(self, checkpoint: Checkpoint) -> None:
        """Give the model, the objective and the history what a checkpoint has of them; the model is whole.

        Raises:
            BundleError: If it does not fit.
        """
        checkpoint.pour(self._model)
        if self.objective is not None and checkpoint.state.get("objective") is not None:
            self.objective.load_state_dict(checkpoint.state["objective"])
        own = self._model.state_dict()
        for name, tensor in checkpoint.state["scaled"].items():
            own[name].copy_(tensor)
        told = checkpoint.state["history"]
        self._history.epochs[:] = [EpochRow(**row) for row in told["epochs"]]
        self._history.best_epoch = told["best"]
        self.spent = float(checkpoint.state["seconds"])

    def take_up_weights(self, checkpoint: Checkpoint) -> None:
        """Give the judge and the average what a checkpoint has of them, divided as the model is by now."""
        like, judge, average = self._model.state_dict(), checkpoint.state["judge"], checkpoint.state["average"]
        if self.judge is not None and judge is not None:
            self.judge.take_up({**judge, "kept": divided(judge["kept"], like)})
        if self.averaging is not None and average is not None:
            self.averaging.take_up(divided(average, like))
