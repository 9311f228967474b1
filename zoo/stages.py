"""The stages of a model by name: the rows that list them, and what a name means that a user gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zoo.contracts.backbone import Backbone
from zoo.contracts.blocks import layer_of, part_of
from zoo.contracts.modules import ModuleMap
from zoo.errors import UnknownName, nearest
from zoo.spec import ModelSpec

__all__ = ["HEADS", "StageRow", "heads_named", "one_stage", "parameters_by_stage", "stages_up_to"]

HEADS = "heads"
"""What stands before a head's name, and for all heads."""


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage of a model, as ``model.stages()`` lists it.

    Args:
        name: ``stream.stage``, or ``heads.name``.
        parameters: Number of parameters.
        frozen: Whether it is frozen.
        rate: Learning rate that the training plan gave it last; None if it is frozen, or no plan was followed.
        adapters: How many of the parameters an adapter added.
    """

    name: str
    parameters: int
    frozen: bool
    rate: float | None = None
    adapters: int = 0


def parameters_by_stage(backbone: Backbone) -> dict[str, tuple[int, int]]:
    """Count the parameters of each stage, and how many of them an adapter added, in the order of execution."""
    counts = {stage.name: [0, 0] for stage in backbone.spec.stages}
    for name, parameter in backbone.named_parameters():
        layer = layer_of(backbone, name)
        if layer is not None:
            added = part_of(name) == "adapters"
            counts[backbone.stage_of(layer)][0] += parameter.numel()
            counts[backbone.stage_of(layer)][1] += parameter.numel() * added
    return {stage: (every, added) for stage, (every, added) in counts.items()}


def heads_named(spec: ModelSpec, name: str | None) -> frozenset[str] | None:
    """Give the heads that a name means, ``heads`` or ``heads.NAME``; None if it is about stages.

    Raises:
        UnknownName: If there is no such head.
    """
    room, dot, head = (name or "").partition(".")
    if room != HEADS or HEADS in spec.streams:
        return None
    known = [one.name for one in spec.heads]
    if (dot and head not in known) or not known:
        near = ", ".join(nearest(head, known) or known)
        raise UnknownName(f"The model has no head {head!r}; its heads are {near or 'none'}.")
    return frozenset([head] if dot else known)


def stages_up_to(spec: ModelSpec, backbones: ModuleMap[Backbone], until: str | None) -> dict[str, frozenset[str]]:
    """Give the stages up to and including a named one, in each stream that it is about.

    Args:
        spec: The model as data.
        backbones: Stream name to backbone.
        until: ``s3`` for every stream, or ``stream.s3``; None for all stages.

    Raises:
        UnknownName: If there is no such stream or stage.
    """
    streams, stage = _streams(spec, backbones, until)
    found = {}
    for stream, backbone in streams.items():
        names = [entry.name for entry in backbone.spec.stages]
        if until is not None:
            backbone.spec.stage(stage)
            names = names[: names.index(stage) + 1]
        found[stream] = frozenset(names)
    return found


def one_stage(spec: ModelSpec, backbones: ModuleMap[Backbone], name: str) -> dict[str, str]:
    """Give stream to stage for one name, ``s3`` or ``stream.s3``; raises as :func:`stages_up_to` does."""
    streams, stage = _streams(spec, backbones, name)
    return {stream: backbone.spec.stage(stage).name for stream, backbone in streams.items()}


def _streams(spec: ModelSpec, backbones: ModuleMap[Backbone], name: str | None) -> tuple[Mapping[str, Backbone], str]:
    """Split a name into the streams that it is about, those with a module of their own, and the stage."""
    wanted, _, stage = (name or "").rpartition(".")
    if not wanted:
        return dict(backbones.items()), stage
    if wanted not in spec.streams:
        raise UnknownName(f"The model has no stream {wanted!r}; it has {', '.join(spec.streams)}.")
    owner = spec.owner(wanted)
    return {owner: backbones[owner]}, stage
