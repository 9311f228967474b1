"""What must hold of a method's runs: what they better, what they leave alone, and that they can be had again."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.bundle import load, save
from zoo.contracts.method import Method, Plan
from zoo.data import Table
from zoo.errors import ConfigError, ZooError
from zoo.model import Model
from zoo.spec import HeadSpec
from zoo.testing.methods.plans import check_groups, check_told
from zoo.testing.methods.subject import EPOCHS, Subject, own_cache
from zoo.testing.rules import rule, same
from zoo.training.judging.evaluation import evaluate
from zoo.training.judging.history import History
from zoo.training.planning.groups import stage_of, trained_names

__all__ = ["Conformance", "check_method"]

ENOUGH = 0.75
"""What is right of two kinds as many of each, at the least, once a method has learnt them; guessing gives a half."""


@dataclass(frozen=True, slots=True)
class Conformance:
    """What a method did on the kit's small problem.

    Args:
        betters: What became better: ``task/metric`` on the training rows, or ``train_loss`` where there are no labels.
        first: What it was before training, or in the first epoch; NaN where the model could not tell before it learnt.
        last: What it was in the end.
        several_tasks: ``works``, or the sentence by which the method says that it does not take several tasks.
    """

    betters: str
    first: float
    last: float
    several_tasks: str


def check_method(
    name: str,
    backbone: str = "timm:test_resnet",
    *,
    settings: Mapping[str, Any] | None = None,
    head: HeadSpec | Mapping[str, Any] | None = None,
    unlabelled: Table | None = None,
    run: Mapping[str, Any] | None = None,
    rewrites: bool = False,
) -> Conformance:
    """Check a training method against the whole contract, on a small model and pictures of two kinds.

    Args:
        name: The method's name.
        backbone: What to train, with random weights.
        settings: The method's settings, for one that needs some, such as a teacher.
        head: What learns the column ``kind``, whose labels are ``a`` and ``b``; None for a classifier.
        unlabelled: Rows without labels, for a method that learns from them; None for the kit's own pictures.
        run: Further arguments of ``zoo.fit``, such as ``{"batch_size": 8}`` where a method needs larger batches.
        rewrites: Whether ``prepare`` may change weights that are there, as pruning does; by default it may only add.

    Returns:
        What became better, and whether the method takes several tasks.

    Raises:
        AssertionError: If a rule is broken; the message names it.

    Example:
        >>> check_method("feature_extraction").betters
        'kind/balanced_accuracy'
    """
    subject = Subject(
        name=name, backbone=backbone, settings=settings or {}, head=head, unlabelled=unlabelled, run=run or {}
    )
    method = subject.method()
    check_told(method)
    model = subject.model()
    before = _state(model)
    method.prepare(model)
    before = _state(model) if rewrites else before
    plan = check_groups(method, model, before)
    objective = method.objective(model)
    says = objective is None or objective.labelled
    rule(method.labelled == says, "A method and its objective must say the same of labels.")
    with own_cache(), tempfile.TemporaryDirectory() as folder:
        model, found = _check_run(subject, method, plan, before, Path(folder))
        _check_bundle(subject, model, Path(folder))
        _check_again(subject, _state(model), Path(folder))
        _check_frozen(subject, before)
        return Conformance(*found, _check_several(subject))


def _check_run(
    subject: Subject, method: Method, plan: Plan, before: Mapping[str, Tensor], folder: Path
) -> tuple[Model, tuple[str, float, float]]:
    """See that a run betters something and leaves what never trains alone; give its model and what became better."""
    model = subject.model()
    method.prepare(model)
    kept = set(trained_names(model, plan))
    model = subject.model()
    first = _measured(subject, model) if method.labelled else (math.nan, "train_loss")
    history = subject.fit(model, checkpoint=folder / "whole", keep_checkpoints=EPOCHS)
    rule(len(history.epochs) == EPOCHS, f"There must be {EPOCHS} epochs, got {len(history.epochs)}.")
    rule(all(math.isfinite(row.train_loss) for row in history.epochs), "Every epoch's loss must be finite.")
    rule(not model.training, "The model must end in eval mode.")
    for key, value in model.state_dict().items():
        if key in before and key not in kept:
            same(before[key], value, f"{key} is never trained and must not change.")
    if not method.labelled:
        losses = [row.train_loss for row in history.epochs]
        rule(min(losses[1:]) < losses[0], f"Training must make the loss smaller, got {losses}.")
        return model, ("train_loss", losses[0], min(losses[1:]))
    last = _measured(subject, model)
    rule(last[0] >= ENOUGH, f"Training must get {ENOUGH:g} of the training rows right, got {last[0]:g} by {last[1]}.")
    return model, (last[1], first[0], last[0])


def _measured(subject: Subject, model: Model) -> tuple[float, str]:
    """Measure the first task on the training rows by what its best epoch is chosen by; NaN where it cannot tell yet."""
    name, task = next(iter(model.tasks().items()))
    metric = task.best_metric[0]
    table = subject.table(objective=subject.method().objective(subject.prepared())).table
    try:
        found = evaluate(model, table, device="cpu")
    except ConfigError:
        return math.nan, f"{name}/{metric}"
    return found[name][metric], f"{name}/{metric}"


def _check_bundle(subject: Subject, model: Model, folder: Path) -> None:
    """See that a bundle gives what the model gives."""
    table = subject.table(objective=subject.method().objective(subject.prepared())).table
    given = model.preprocess([{"image": sample} for sample in table.inputs["image"][:4]])
    again = load(save(model, folder / "bundle"))
    with torch.no_grad():
        for task, output in model(given).items():
            same(output, again(given)[task], f"{task}: the output must be bit-equal after saving and loading.")


def _check_again(subject: Subject, whole: Mapping[str, Tensor], folder: Path) -> None:
    """See that a run can be had again by its seed, and goes on from a checkpoint as if it had never stopped."""
    again = subject.model()
    subject.fit(again)
    _same(whole, _state(again), "A run must end the same by the same seed")
    found = sorted((folder / "whole").glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    rule(len(found) == EPOCHS, f"There must be a checkpoint an epoch, got {len(found)}.")
    for path in found[EPOCHS // 2 :]:
        shutil.rmtree(path)
    halved = subject.model()
    history = subject.fit(halved, checkpoint=folder / "whole", keep_checkpoints=EPOCHS, resume=True)
    rule(len(history.epochs) == EPOCHS, f"A run that goes on must have {EPOCHS} epochs, got {len(history.epochs)}.")
    _same(whole, _state(halved), "A run that goes on from a checkpoint must end as one that never stopped")


def _check_frozen(subject: Subject, before: Mapping[str, Tensor]) -> None:
    """See that what the user freezes rests, unless the method says that it cannot be."""
    model = subject.model()
    stage = model.stages()[0].name
    try:
        subject.fit(model, epochs=EPOCHS // 2, freeze=stage)
    except ConfigError:
        return
    for name in (name for name in before if name in model.state_dict() and stage_of(model, name) == stage):
        same(before[name], model.state_dict()[name], f"{name} is frozen by the user and must not change.")


def _check_several(subject: Subject) -> str:
    """See that a method trains two tasks, or says that it does not."""
    model = subject.model(tasks=2)
    try:
        history: History = subject.fit(model, epochs=EPOCHS // 2)
    except ZooError as error:
        rule("\n" not in str(error), f"What a method does not take must be said in one sentence: {error}")
        return str(error)
    rule(math.isfinite(history.epochs[0].train_loss), "With two tasks the loss must be finite.")
    return "works"


def _state(model: Model) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor], text: str) -> None:
    rule(one.keys() == other.keys(), f"{text}; the names differ: {sorted(one.keys() ^ other.keys())[:4]}.")
    for name, value in one.items():
        same(value, other[name], f"{text}; {name} differs.")
