"""The composition of a model as a tree: inputs, streams and heads, with shapes and numbers of parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from zoo.contracts.examples import example_inputs
from zoo.contracts.features import Features, Want
from zoo.contracts.head import Head
from zoo.ensembling.ensemble import Ensemble
from zoo.model import Model
from zoo.spec import InputSpec

__all__ = ["Part", "compose", "draw"]

BATCH = 2


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a model.

    Args:
        name: What it is called.
        what: What it is.
        gives: What it gives, name to shape without the batch.
        parameters: Number of its parameters; None for what has none of its own.
        inside: The parts inside it.
    """

    name: str
    what: str
    gives: dict[str, tuple[int, ...]] = field(default_factory=dict)
    parameters: int | None = None
    inside: tuple[Part, ...] = ()


def compose(model: Model | Ensemble) -> Part:
    """Describe the parts of a model, or of an ensemble's members; each runs once on random inputs to see the shapes."""
    if isinstance(model, Ensemble):
        members = tuple(replace(compose(member), name=name) for name, member in model.members.items())
        shared = "; ".join(f"{', '.join(group)} are one backbone, run once" for group in model.shared())
        what = f"{len(members)} members, combined by {model.spec.combine}" + (f"; {shared}" if shared else "")
        return Part("ensemble", what, parameters=_count(model), inside=members)
    was_training = model.training
    inputs = {stream: example_inputs(entry.backbone, BATCH) for stream, entry in model.spec.streams.items()}
    try:
        with torch.no_grad():
            features = model.eval().features(_as_model_takes(model, inputs))
            outputs = model.score(features)
    finally:
        model.train(was_training)
    streams = tuple(_stream(model, stream, features[stream]) for stream in model.spec.streams)
    heads = tuple(_head(head, outputs) for head in model.heads.values())
    return Part("model", "", parameters=_count(model), inside=(*streams, *heads))


def draw(part: Part) -> list[str]:
    """Draw a part and all inside it, a line each."""
    return [_line(part), *_branches(part)]


def _as_model_takes(model: Model, inputs: dict[str, dict[str, Tensor]]) -> dict[str, object]:
    place = next(model.parameters(), torch.empty(0)).device
    return {stream: {name: tensor.to(place) for name, tensor in given.items()} for stream, given in inputs.items()}


def _stream(model: Model, stream: str, features: Features) -> Part:
    entry = model.spec.streams[stream]
    spec = entry.backbone
    own = entry.shares is None
    what = f"{spec.reference} reads {entry.input} ({_input(spec.inputs[0])})"
    what += "" if own else f", by the module of {entry.shares}"
    told = [f"the adapter {a.spec.name} of rank {a.spec.rank}" for a in model.adapters if a.spec.stream == stream]
    what += f", with {told[0]}" if told else ""
    what += ", pruned" if spec.widths else ""
    what += f", rounding to 8 bits ({spec.quantized.observer})" if spec.quantized else ""
    count = _count(model.backbones[stream]) if own else None
    return Part(stream, what, _given(features, model.wants[stream]), count)


def _input(entry: InputSpec) -> str:
    sides = "×".join(map(str, entry.size)) if entry.size else ""
    counted = f"{entry.channels} × {sides}" if entry.channels and sides else sides or str(entry.channels or "")
    return f"{entry.kind} {counted}".strip()


def _given(features: Features, want: Want) -> dict[str, tuple[int, ...]]:
    found = {"pooled": features.pooled, "tokens": features.tokens, "embed": features.embed}
    found |= {f"map {stage}": features.maps.get(stage) for stage in want.maps}
    return {name: tuple(tensor.shape[1:]) for name, tensor in found.items() if tensor is not None}


def _head(head: Head, outputs: dict[str, Tensor]) -> Part:
    inside = tuple(_head(one, outputs) for one in _inner(head))
    tasks = head.tasks()
    reads = getattr(head, "stream", None)
    what = head.spec.type + (f" on {reads}" if isinstance(reads, str) else "")
    gives = {} if inside else {name: tuple(outputs[name].shape[1:]) for name in tasks if name in outputs}
    return Part(head.spec.name, what, gives, _count(head), inside)


def _inner(module: nn.Module) -> Iterator[Head]:
    """Give the heads directly inside a head, whatever holds them."""
    for child in module.children():
        if isinstance(child, Head):
            yield child
        else:
            yield from _inner(child)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _line(part: Part) -> str:
    gives = ", ".join(f"{name} {' × '.join(map(str, shape)) or 'one number'}" for name, shape in part.gives.items())
    counted = "" if part.parameters is None else f"{part.parameters:,} parameters"
    return f"{part.name}: " + "; ".join(
        text for text in (part.what, f"gives {gives}" if gives else "", counted) if text
    )


def _branches(part: Part, before: str = "") -> Iterator[str]:
    for number, inner in enumerate(part.inside, start=1):
        last = number == len(part.inside)
        yield f"{before}{'└─ ' if last else '├─ '}{_line(inner)}"
        yield from _branches(inner, before + ("   " if last else "│  "))
