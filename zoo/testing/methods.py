"""What must hold of every training method."""

from __future__ import annotations

import math
import os
import tempfile
from unittest import mock

import torch

from zoo.assembly import build
from zoo.contracts.method import Method, Plan
from zoo.data import Column, Table, TensorSample
from zoo.registry import registry
from zoo.spec import BackboneSpec
from zoo.testing.rules import rule, same
from zoo.training.fitting import fit
from zoo.training.groups import stage_of

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
    streams = {stream: model.spec.streams[stream].backbone for stream in model.backbones}
    plan = _check_plan(method, streams)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, {"ZOO_CACHE": cache}):
        history = fit(model, _table(streams["main"]), method=name, epochs=EPOCHS, batch_size=4, device="cpu")
    rule(len(history.epochs) == EPOCHS, f"There must be {EPOCHS} epochs, got {len(history.epochs)}.")
    rule(all(math.isfinite(row.train_loss) for row in history.epochs), "Every epoch's loss must be finite.")
    rule(not model.training, "The model must end in eval mode.")
    never = plan.never_trained()
    for key, value in model.state_dict().items():
        if stage_of(model, key) in never:
            same(before[key], value, f"{key} is never trained and must not change.")


def _check_plan(method: Method, streams: dict[str, BackboneSpec]) -> Plan:
    plan = method.plan(streams, epochs=EPOCHS, lr=1e-3)
    rule(plan == method.plan(streams, epochs=EPOCHS, lr=1e-3), "A plan must be the same when it is made again.")
    rule(len(plan.epochs) == EPOCHS, f"A plan must have one entry an epoch, got {len(plan.epochs)}.")
    stages = {f"{stream}.{stage.name}" for stream, spec in streams.items() for stage in spec.stages}
    for epoch, states in enumerate(plan.epochs):
        rule(set(states) == stages | {"heads"}, f"Epoch {epoch} must name every stage and 'heads': {sorted(states)}.")
        for stage, state in states.items():
            rule(state.lr >= 0 and math.isfinite(state.lr), f"The rate of {stage} in epoch {epoch} must be 0 or more.")
            rule(state.trainable == (state.lr > 0), f"{stage} in epoch {epoch} must have a rate just if it trains.")
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
