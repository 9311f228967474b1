"""What must hold of every training method."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from unittest import mock

import torch

from zoo.assembly import build
from zoo.contracts.method import Method, Plan
from zoo.contracts.outline import BackboneOutline
from zoo.data import Column, Table, TensorSample
from zoo.registry import registry
from zoo.spec import BackboneSpec
from zoo.testing.rules import rule, same
from zoo.training.fitting import fit
from zoo.training.planning.groups import outlines, parameter_groups, slots, trained_names

__all__ = ["check_method"]

EPOCHS = 4


def check_method(name: str, backbone: str = "timm:test_resnet") -> None:
    """Check a training method against the whole contract, on a small model and made-up data.

    Args:
        name: The method's name.
        backbone: What to train.

    Raises:
        AssertionError: If a rule is broken; the message names it.
    """
    method = registry().method_class(name).with_settings(name, {})
    rule(bool(method.summary), "A method must have a one-line summary.")
    head = {"type": "classifier", "name": "kind", "classes": ["a", "b"]}
    model = build(backbone, head, weights=None, seed=0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    method.prepare(model)
    plan = _check_plan(method, outlines(model))
    parameters = dict(model.named_parameters())
    places = slots(model, plan)
    groups = parameter_groups(model, plan, weight_decay=0.1)
    homes = Counter(id(parameter) for group in groups for parameter in group["params"])
    for key, parameter in parameters.items():
        trains = any(places[key].rate(state) > 0 for state in plan.states_of(places[key].stage))
        rule(homes[id(parameter)] == trains, f"{key} must be in {int(trains)} groups, is in {homes[id(parameter)]}.")
    for key in before:
        rule(key in model.state_dict(), f"{key} must still be there once the model is prepared.")
        same(before[key], model.state_dict()[key], f"{key} must not change when the model is prepared.")
    kept = set(trained_names(model, plan))
    spec = next(iter(model.spec.streams.values())).backbone
    with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, {"ZOO_CACHE": cache}):
        history = fit(model, _table(spec), method=name, epochs=EPOCHS, batch_size=4, device="cpu")
    rule(len(history.epochs) == EPOCHS, f"There must be {EPOCHS} epochs, got {len(history.epochs)}.")
    rule(all(math.isfinite(row.train_loss) for row in history.epochs), "Every epoch's loss must be finite.")
    rule(not model.training, "The model must end in eval mode.")
    for key, value in model.state_dict().items():
        if key in before and key not in kept:
            same(before[key], value, f"{key} is never trained and must not change.")


def _check_plan(method: Method, streams: Mapping[str, BackboneOutline]) -> Plan:
    plan = method.plan(streams, epochs=EPOCHS, lr=1e-3)
    rule(plan == method.plan(streams, epochs=EPOCHS, lr=1e-3), "A plan must be the same when it is made again.")
    told = [{stage: asdict(state) for stage, state in states.items()} for states in plan.epochs]
    rule(json.loads(json.dumps(told)) == told, "A plan must be of plain values.")
    if plan.patience is None:
        rule(len(plan.epochs) == EPOCHS, f"A plan must have one entry an epoch, got {len(plan.epochs)}.")
    stages = {f"{stream}.{stage.name}": stage for stream, outline in streams.items() for stage in outline.stages}
    for epoch, states in enumerate(plan.epochs):
        rule(set(states) == {*stages, "heads"}, f"Epoch {epoch} must name every stage and 'heads': {sorted(states)}.")
        for name, state in states.items():
            counts = {"all": 1, "biases": 0, "adapters": 0}
            if name in stages:
                counts |= {"biases": stages[name].biases, "adapters": stages[name].adapters}
            has = counts[state.train] > 0 or not state.trainable
            rule(has, f"{name} in epoch {epoch} trains {state.train}, and has nothing of it.")
    return plan


def _table(spec: BackboneSpec) -> Table:
    """Make 16 noisy pictures of two kinds that differ in brightness."""
    generator = torch.Generator().manual_seed(0)
    entry = spec.inputs[0]
    shape = (entry.channels or 3, *((entry.size or (64, 64)) if entry.fixed_size else (64, 64)))
    pictures = [torch.randn(shape, generator=generator) + 2 * (row % 2) for row in range(16)]
    samples = tuple(TensorSample(f"picture {row}", picture) for row, picture in enumerate(pictures))
    kinds = tuple("ab"[row % 2] for row in range(16))
    return Table("made-up pictures", {"image": samples}, {"kind": Column("kind", "text", kinds)})
