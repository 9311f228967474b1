"""One run of the engine: from data sets and a plan to a model with the weights of its best epoch."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import TrainingArguments
from transformers.trainer_callback import ProgressCallback

from zoo.contracts.method import Plan
from zoo.model import Model
from zoo.training.batches import Collator, Row
from zoo.training.engine import Engine, Objective
from zoo.training.following import FollowPlan, NewViews, follow
from zoo.training.history import History
from zoo.training.judging import BestEpoch, LastEpoch
from zoo.training.learning import LearnAgain
from zoo.training.settings import Settings

__all__ = ["train"]


def train(
    model: Model,
    plan: Plan,
    datasets: Mapping[str, Dataset[Row]],
    run: Settings,
    history: History,
    place: torch.device,
    *,
    decides: str,
    higher: bool,
    progress: bool,
) -> None:
    """Train a model in place; it ends in eval mode with the weights of its best epoch.

    Args:
        model: The model.
        plan: What trains when.
        datasets: ``train``, and ``validation`` if there is one.
        run: The user's settings.
        history: Where the epochs are written.
        place: Where to run.
        decides: What the best epoch is chosen by, ``loss``, ``tasks`` or ``task/metric``.
        higher: Whether more of it is better.
        progress: Whether to show a progress bar.
    """
    judged = "validation" in datasets
    history.select = decides if judged else None
    keeper = BestEpoch(model, plan, history, select=decides, higher=higher, patience=run.patience) if judged else None
    follow(model, plan, 0)
    with tempfile.TemporaryDirectory(prefix="zoo-fit-") as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*pin_memory.*")
        engine = Engine(
            Objective(model),
            plan,
            warmup=run.warmup,
            args=_arguments(folder, run, history, place, judged),
            train_dataset=datasets["train"],
            eval_dataset=datasets.get("validation"),
            data_collator=Collator(model.preparers()),
            callbacks=[
                FollowPlan(model, plan),
                NewViews(datasets["train"]),
                LearnAgain(model, datasets["train"], batch_size=run.batch_size, place=place),
                keeper or LastEpoch(history),
            ],
        )
        if progress:
            engine.add_callback(QuietProgress)
        engine.train()
    if keeper is not None:
        keeper.restore()
    model.eval()


class QuietProgress(ProgressCallback):
    """The Trainer's progress bar without its log lines; zoo tells the epochs itself."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Print nothing."""


def _arguments(folder: str, run: Settings, history: History, place: torch.device, judged: bool) -> TrainingArguments:
    rows = history.rows["train"]
    workers = run.workers if run.workers is not None else (os.cpu_count() or 1 if place.type == "cuda" else 0)
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=run.epochs,
        per_device_train_batch_size=run.batch_size,
        per_device_eval_batch_size=run.batch_size,
        weight_decay=run.weight_decay,
        seed=run.seed,
        data_seed=run.seed,
        use_cpu=place.type == "cpu",
        bf16=history.precision == "bf16",
        fp16=history.precision == "fp16",
        eval_strategy="epoch" if judged else "no",
        logging_strategy="epoch",
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["targets"],
        dataloader_num_workers=0 if history.cached_features else workers,
        dataloader_pin_memory=place.type == "cuda",
        dataloader_drop_last=rows > run.batch_size and rows % run.batch_size == 1,  # BatchNorm cannot learn from one
    )
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        arguments._n_gpu = min(1, arguments.n_gpu)  # one process uses one GPU; torchrun gives the others
    return arguments
