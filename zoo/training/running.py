"""One run of the engine: from data sets and a plan to a model with the weights of its best epoch."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import TrainingArguments
from transformers.trainer_callback import ProgressCallback

from zoo.bundle.checkpoints import Checkpoint
from zoo.contracts.method import Plan
from zoo.contracts.objective import Objective
from zoo.data import Table, placed
from zoo.errors import TrainingError
from zoo.model import Model
from zoo.training.dividing import SameBuffers
from zoo.training.engine import Engine
from zoo.training.following import FollowPlan, FollowSteps, NewViews, follow
from zoo.training.judging.averaging import Averaging
from zoo.training.judging.clock import EpochClock
from zoo.training.judging.epochs import BestEpoch, LastEpoch
from zoo.training.judging.history import History
from zoo.training.learning import LearnAgain, learn_features
from zoo.training.linear.alone import lightened
from zoo.training.planning.groups import trained_names
from zoo.training.planning.settings import Settings
from zoo.training.ranks import Ranks, world_size
from zoo.training.resuming.checkpointing import Keeper
from zoo.training.resuming.interrupting import Interrupted
from zoo.training.rows.asked import AskedCollator
from zoo.training.rows.batches import Collator, Row
from zoo.training.sharding import Sharding, alone, in_pieces
from zoo.training.step import Step
from zoo.training.watching import Diverged, WatchedRows, names_of

__all__ = ["train"]

log = logging.getLogger("zoo")


def train(
    model: Model,
    plan: Plan,
    datasets: Mapping[str, Dataset[Row]],
    run: Settings,
    history: History,
    place: torch.device,
    *,
    parts: Mapping[str, Table],
    decides: str,
    higher: bool,
    progress: bool,
    keeper: Keeper | None = None,
    resumed: Checkpoint | None = None,
    sampler: Sampler[int] | None = None,
    ranks: Ranks | None = None,
    objective: Objective | None = None,
) -> None:
    """Train a model in place; it ends in eval mode with the weights of its best epoch.

    Args:
        model: The model.
        plan: What trains when.
        datasets: ``train``, and ``validation`` if there is one.
        run: The user's settings.
        history: Where the epochs are written.
        place: Where to run.
        parts: The rows of the data sets.
        decides: What the best epoch is chosen by, ``loss``, ``tasks`` or ``task/metric``.
        higher: Whether more of it is better.
        progress: Whether to show a progress bar.
        keeper: What keeps checkpoints; None for none.
        resumed: The checkpoint to go on from.
        sampler: What draws the training rows; None for each once an epoch.
        ranks: The processes that train together; None for this one alone.
        objective: What a method trains beside the heads' losses, or in their place; None for these alone.

    Raises:
        TrainingError: If a loss or gradient is no finite number.
        Interrupted: If the user interrupts a run that keeps checkpoints, once one is written.
        ConfigError: If the model is to be in pieces, and cannot be.
    """
    ranks = ranks or Ranks()
    judged = "validation" in datasets
    history.select = decides if judged else None
    clock, judge = EpochClock(place), None
    if judged:
        judge = BestEpoch(
            model, plan, history, select=decides, higher=higher, patience=run.patience, clock=clock, objective=objective
        )
    again = partial(learn_features, model, datasets["train"], batch_size=run.batch_size, place=place)
    averaging = None if run.ema is None else Averaging(model, trained_names(model, plan), run.ema, again)
    follow(model, plan, 0)
    watched = {
        part: WatchedRows(rows, parts[part], files=not history.cached_features) for part, rows in datasets.items()
    }
    step = Step(lightened(model, datasets["train"]), objective=objective, mixing=run.mixing, ranks=ranks)
    if keeper is not None:
        keeper.judge, keeper.averaging, keeper.objective = judge, averaging, objective
        if resumed is not None:
            keeper.take_up(resumed)
    with (
        tempfile.TemporaryDirectory(prefix="zoo-fit-") as folder,
        warnings.catch_warnings(),
        alone(),
        _divided(step, model, plan, datasets["train"], run, place) as sharding,
    ):
        warnings.filterwarnings("ignore", message=".*pin_memory.*")
        engine = Engine(
            step,
            plan,
            run=run,
            history=history,
            keeper=keeper,
            averaging=averaging,
            sampler=sampler,
            sharding=sharding,
            args=_arguments(folder, run, history, place, judged),
            train_dataset=watched["train"],
            eval_dataset=watched.get("validation"),
            data_collator=Collator(model.preparers()) if objective is None else AskedCollator(model, objective),
            callbacks=[
                clock,
                *([SameBuffers(model, ranks)] if ranks.several else []),
                FollowPlan(model, plan, history),
                NewViews(datasets["train"]),
                *([FollowSteps(objective, model)] if objective is not None else []),
                *([averaging] if averaging is not None else []),
                LearnAgain(model, datasets["train"], batch_size=run.batch_size, place=place),
                judge or LastEpoch(history, clock, objective),
                *([keeper] if keeper is not None else []),
            ],
        )
        if progress and ranks.first:
            engine.add_callback(QuietProgress)
        if keeper is not None and resumed is not None:
            keeper.take_up_weights(resumed)
        try:
            if resumed is not None and resumed.training.finished:
                log.info("%s: the run is finished already; nothing is trained.", resumed.path)
                follow(model, plan, max(0, len(history.epochs) - 1), history.values())
            else:
                with keeper.interrupts.heard() if keeper is not None else nullcontext():
                    engine.resume(resumed)
        except Diverged as error:
            raise _told(error, engine.state.global_step, parts["train"], judge, history, keeper) from error
        finally:
            model.eval()
        if averaging is not None and (judge is None or not judge.has_best):
            averaging.settle()
        if judge is not None:
            judge.restore()
        model.eval()


@contextmanager
def _divided(
    step: Step, model: Model, plan: Plan, rows: Dataset[Row], run: Settings, place: torch.device
) -> Iterator[Sharding | None]:
    """Have what is trained in pieces for as long as the context is open, where the user asked for it.

    It is whole again after what all processes meet alike, such as a loss that is no number; not where one fails alone.
    """
    if not run.sharded:
        yield None
        return
    batch = next(iter(DataLoader(rows, batch_size=2, collate_fn=Collator(model.preparers()))))
    here = placed(batch, next(step.parameters()).device)
    changing = set(trained_names(model, plan))
    never = {p for name, p in step.model.named_parameters() if name not in changing}
    through = partial(step.run, here.get("inputs"), here.get("features"))
    sharding = in_pieces(step, list(model.backbones.values()), through, place, never=never)
    try:
        yield sharding
    except (TrainingError, Interrupted):
        sharding.release()
        raise
    sharding.release()


def _told(
    error: Diverged, done: int, table: Table, judge: BestEpoch | None, history: History, keeper: Keeper | None
) -> TrainingError:
    """Say what became no number, on which samples, and what is left; the model gets its best epoch."""
    names = names_of(table, error.rows) if error.rows is not None else []
    on = f", on the samples {', '.join(names[:8])}" if names else ""
    on += f" and {len(names) - 8} more" if len(names) > 8 else ""
    there = keeper.folder.checkpoints() if keeper is not None else []
    if judge is not None and judge.has_best:
        judge.restore()
        left = f"The model has the weights of its best epoch, {history.best_epoch}"
    else:
        left = "The model is as this step found it, and there is no better epoch"
    left += f"; the last good checkpoint is {there[-1]}" if there else ""
    return TrainingError(
        f"The {error.what} became {error.value} at step {done + 1}{on}. {left}. Look at these samples, or train with a "
        "lower lr.",
        step=done + 1,
        samples=names,
        checkpoint=str(there[-1]) if there else None,
    )


class QuietProgress(ProgressCallback):
    """The Trainer's progress bar without its log lines; zoo tells the epochs itself."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Print nothing."""


def _arguments(folder: str, run: Settings, history: History, place: torch.device, judged: bool) -> TrainingArguments:
    rows = history.rows["train"]
    workers = run.workers if run.workers is not None else (os.cpu_count() or 1 if place.type == "cuda" else 0)
    here = "." if run.report_to else folder  # where a tracker writes without a run's folder
    arguments = TrainingArguments(
        output_dir=here if run.checkpoint is None else str(run.checkpoint),
        num_train_epochs=run.epochs,
        per_device_train_batch_size=run.batch_size,
        per_device_eval_batch_size=run.batch_size,
        weight_decay=run.weight_decay,
        max_grad_norm=run.clip,
        gradient_accumulation_steps=run.accumulate,
        seed=run.seed,
        data_seed=run.seed,
        use_cpu=place.type == "cpu",
        bf16=history.precision == "bf16",
        fp16=history.precision == "fp16",
        eval_strategy="epoch" if judged else "no",
        logging_strategy="epoch",
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=list(run.report_to) or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["targets"],
        dataloader_num_workers=0 if history.cached_features or history.cached_prefix else workers,
        dataloader_pin_memory=place.type == "cuda",
        dataloader_drop_last=rows > run.batch_size and rows % run.batch_size == 1,  # BatchNorm cannot learn from one
    )
    if world_size() == 1:
        arguments._n_gpu = min(1, arguments.n_gpu)  # one process uses one GPU; torchrun gives the others
    return arguments
