"""What must hold of every head."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.assembly import build
from zoo.bundle import load, save
from zoo.contracts.features import Features
from zoo.contracts.head import Task
from zoo.model import Model
from zoo.spec import HeadSpec
from zoo.testing.backbones import example_inputs
from zoo.testing.rules import rule, same
from zoo.training.learning import listening

__all__ = ["check_head"]


def check_head(
    spec: HeadSpec | Mapping[str, Any] | str,
    backbone: str | Mapping[str, str] = "timm:test_resnet",
    *,
    ready: Callable[[Model], object] | None = None,
) -> None:
    """Check a head on a backbone with random weights against the whole contract.

    Args:
        spec: The head, with all settings that it needs to be built.
        backbone: What to put it on, which must give what the head needs; stream name to that for several.
        ready: What to do with the model first, where a head is told something that is no setting.

    Raises:
        AssertionError: If a rule is broken; the message names it.
    """
    model = build(backbone, spec, weights=None, seed=0)
    if ready is not None:
        ready(model)
    tasks = model.tasks()
    rule(bool(tasks), "A head must have one task or more.")
    labels = {name: task.example_labels() for name, task in tasks.items()}
    rows = max(len(column) for column in labels.values())
    given = {entry.input: example_inputs(entry.backbone, batch=rows) for entry in model.spec.streams.values()}
    inputs: Mapping[str, Any] = given if len(given) > 1 else next(iter(given.values()))
    targets = {name: task.encode(_fill(labels[name], rows)) for name, task in tasks.items()}
    with torch.no_grad():
        features = model.features(inputs)
        _learn(model, features, targets)
        outputs = model(inputs)
    rule(set(outputs) == set(tasks), f"A head must give one output a task, got {sorted(outputs)}.")
    for name, task in tasks.items():
        _check_task(name, task, outputs[name], labels[name], rows)
    _check_training(model, features, targets)
    _check_bundle(model, inputs)


def _fill(labels: list[Any], rows: int) -> list[Any]:
    return [labels[row % len(labels)] for row in range(rows)]


def _learn(model: Model, features: Mapping[str, Features], targets: Mapping[str, Tensor]) -> None:
    """Show the rows to what learns from features, as training does."""
    with listening(model) as seen:
        model.score(features)
    for name, given in seen.items():
        task = model.task(name)
        task.learn(given, targets[name])
        task.learnt()


def _check_task(name: str, task: Task, output: Tensor, labels: list[Any], rows: int) -> None:
    rule(None in labels, f"{name}: example_labels must have a missing label among them.")
    rule(len(output) == rows, f"{name}: the output must have one row a sample, got {tuple(output.shape)}.")
    known = [label for label in labels if label is not None]
    target = task.encode(known)
    loss = task.loss(output[: len(known)], target)
    rule(loss.ndim == 0 and bool(torch.isfinite(loss)), f"{name}: the loss must be a finite scalar, got {loss}.")
    more = task.loss(torch.cat([output[: len(known)], output[:1]]), task.encode([*known, None]))
    rule(bool(torch.allclose(loss, more)), f"{name}: a sample without a label must add nothing to the loss.")
    nothing = task.loss(output[:1].detach().requires_grad_(), task.encode([None]))
    rule(bool(nothing == 0) and nothing.requires_grad, f"{name}: without any label the loss must be 0 and connected.")
    metrics = task.metrics()
    task.update(metrics, output[: len(known)], target)
    before = {key: float(value) for key, value in metrics.compute().items()}
    task.update(metrics, output[:1], task.encode([None]))
    after = {key: float(value) for key, value in metrics.compute().items()}
    rule(before == after, f"{name}: a sample without a label must add nothing to the metrics.")
    rule(task.best_metric[0] in before, f"{name}: best_metric must be one of {sorted(before)}.")
    decoded = task.decode(output)
    rule(len(decoded) == rows, f"{name}: decode must give one prediction a sample, got {len(decoded)}.")
    json.dumps([one.as_json() for one in decoded], allow_nan=False)


def _check_training(model: Model, features: Mapping[str, Features], targets: Mapping[str, Tensor]) -> None:
    """Every parameter of the head gets a gradient, and a few steps make the loss smaller."""
    heads = [p for head in model.heads.values() for p in head.parameters()]
    if not heads:
        return
    optimizer = torch.optim.Adam(heads, lr=1e-3)
    model.train()
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = torch.stack(list(model.losses(model.score(features), targets, later=True).values())).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    rule(all(p.grad is not None for p in heads), "Every parameter of a head must get a gradient.")
    rule(min(losses[-5:]) < losses[0], f"Training must make the loss smaller: {losses[0]:.4f} → {losses[-1]:.4f}.")
    model.eval()


def _check_bundle(model: Model, inputs: Mapping[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = save(model, Path(folder) / "bundle")
        again = load(path)
        for name, output in model(inputs).items():
            same(output, again(inputs)[name], f"{name}: the output must be bit-equal after saving and loading.")
