"""Checks of copies: from the spec, from memory, in a bundle, in a worker."""

from __future__ import annotations

import copy
import copyreg
import io
import multiprocessing
import tempfile
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from zoo.assembly import build
from zoo.bundle import save
from zoo.bundle.loading import load_model
from zoo.contracts.backbone import Backbone
from zoo.spec import BackboneSpec
from zoo.strict import from_json, to_json
from zoo.testing.backbones.check import Unfit, check
from zoo.testing.backbones.preparing import prepared, sample_for
from zoo.testing.backbones.subject import Subject, everything, tensors_of
from zoo.testing.rules import rule, same
from zoo.wrapping import WRAPPED

__all__: list[str] = []

PATIENCE = 60
"""How long a worker may take, in seconds."""


@check("The native keys stand under 'native.', and no pass and no mode changes them.")
def state_keys(subject: Subject) -> None:
    """See that weights can be exchanged with the library."""
    backbone = subject.twin()
    native = [f"native.{key}" for key in backbone.native.state_dict()]
    before = list(backbone.state_dict())
    missing = [key for key in native if key not in before]
    rule(not missing, f"The native module's keys must stand under 'native.'; {missing[:3]} do not.")
    inside = [key for key in before if key.startswith("native.")]
    rule(
        inside == native,
        f"Under 'native.' there must be the native module's keys only: {sorted({*inside} - {*native})[:3]}.",
    )
    subject.run(backbone, everything(subject.spec))
    backbone.train()
    subject.run(backbone)
    backbone.set_grad_checkpointing(True)
    backbone.set_grad_checkpointing(False)
    rule(list(backbone.state_dict()) == before, "A pass, a mode and checkpointing must not change the keys.")


@check("A backbone rebuilt from its spec takes the weights and gives equal features.")
def rebuild(subject: Subject) -> None:
    """See that the spec is enough, after JSON, and in another process without a network."""
    given_state = subject.backbone.state_dict()
    torch.manual_seed(4711)  # what the spec does not hold must not be equal by chance
    other = subject.build(from_json(BackboneSpec, to_json(subject.spec)))
    differing = sorted(set(other.state_dict()) ^ set(given_state))
    rule(not differing, f"A backbone rebuilt from its spec must have the same keys; {differing[:3]} differ.")
    other.load_state_dict(given_state, strict=True)
    for name, tensor in subject.backbone.named_buffers():
        same(tensor, dict(other.named_buffers())[name], f"The buffer {name} of a rebuilt backbone must be equal.")
    _equal(subject, other, "A backbone rebuilt from its spec must give equal features")


@check("Equal seeds give equal random weights, other seeds give others.")
def seeds(subject: Subject) -> None:
    """See that ``zoo.build(seed=…)`` holds."""
    if subject.spec.provider == WRAPPED:
        raise Unfit("the weights of a wrapped module are its own")
    made = []
    with torch.random.fork_rng(devices=[]):
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            made.append(subject.build().state_dict())
    for name, tensor in made[0].items():
        same(tensor, made[1][name], f"{name} must be the same with the same seed.")
    rule(any(not torch.equal(t, made[2][n]) for n, t in made[0].items()), "Other seeds must give other weights.")


@check("A copy gives equal features and shares nothing.")
def deepcopy(subject: Subject) -> None:
    """See that ``copy.deepcopy``, which averaging of weights and ensembles use, holds."""
    original = subject.twin()
    other = copy.deepcopy(original)
    _equal(subject, other, "A copy must give equal features")
    with torch.no_grad():
        for tensor in (*original.parameters(), *original.buffers()):
            tensor.zero_()
    _equal(subject, other, "A copy must not change with the original; it gave other features")


@check("A backbone goes through the pickling that a worker's start does.")
def pickling(subject: Subject) -> None:
    """See that a spawned process can be given the backbone; the bytes are our own and go nowhere."""
    buffer = io.BytesIO()
    pickler = ForkingPickler(buffer)
    pickler.dispatch_table = copyreg.dispatch_table  # by value, and not by shared memory
    try:
        pickler.dump(subject.backbone)
        other = ForkingPickler.loads(buffer.getvalue())
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
        raise AssertionError(f"A backbone must go through pickling, as for a DataLoader's worker, got {got}") from error
    _equal(subject, other, "A pickled backbone must give equal features")


@check("A DataLoader's worker prepares samples as this process does.")
def worker(subject: Subject) -> None:
    """See that ``preprocess`` works in another process."""
    if "fork" not in multiprocessing.get_all_start_methods():
        raise Unfit("this system cannot fork")
    sample, expected = sample_for(subject), prepared(subject)
    loader: Any = DataLoader(
        [sample, sample],  # type: ignore[arg-type]
        batch_size=1,
        num_workers=1,
        collate_fn=_First(subject.backbone),
        multiprocessing_context="fork",
        timeout=PATIENCE,
    )
    for found in loader:
        for name, tensor in _named(subject, found).items():
            same(_named(subject, expected)[name], tensor, f"A worker must prepare {name} as this process does.")


class _First:
    """Prepare the one sample of a batch."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def __call__(self, samples: list[Any]) -> Any:
        return self.backbone.preprocess(samples[0])


def _named(subject: Subject, found: Any) -> dict[str, torch.Tensor]:
    return found if isinstance(found, dict) else {subject.main: found}


@check("A bundle keeps it bit-equal, and it prepares samples as before.")
def bundle(subject: Subject) -> None:
    """See that a model on it can be saved and loaded."""
    spec = subject.spec
    with tempfile.TemporaryDirectory() as folder:
        if spec.provider == WRAPPED:
            own = subject.twin()
            model = build(own)
            again = load_model(save(model, Path(folder) / "bundle"), modules={"main": subject.twin().native})
        else:
            model = build(subject.asked or spec.reference, weights=None, seed=0)
            model.backbones["main"].load_state_dict(subject.backbone.state_dict(), strict=True)
            again = load_model(save(model, Path(folder) / "bundle"))
    loaded = again.backbones["main"]
    _equal(subject, loaded, "A backbone out of a bundle must give equal features")
    try:
        expected = prepared(subject)
    except Unfit:
        return
    for name, tensor in _named(subject, loaded.preprocess(sample_for(subject))).items():
        same(_named(subject, expected)[name], tensor, f"A backbone out of a bundle must prepare {name} as before.")


def _equal(subject: Subject, other: Backbone, text: str) -> None:
    found = tensors_of(subject.run(other.eval(), everything(subject.spec)))
    for name, tensor in tensors_of(subject.features).items():
        rule(name in found, f"{text}, and {name} is missing.")
        same(tensor, found[name], f"{text}: {name} differs.")
