"""What a user freezes for a run: it goes over the method's plan, and never trains in it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from zoo.contracts.head import Task
from zoo.contracts.method import FROZEN, Plan
from zoo.errors import ConfigError
from zoo.freezing import has_statistics, norms_of
from zoo.model import Model
from zoo.stages import HEADS, heads_named, stages_up_to

__all__ = ["begin", "rested", "rests", "trained_tasks"]

log = logging.getLogger("zoo")


def rested(model: Model, plan: Plan, freeze: Sequence[str]) -> Plan:
    """Give a method's plan without the stages that the user freezes, in any epoch.

    Args:
        model: The model; nothing of it is changed.
        plan: What the method trains.
        freeze: What rests, in the words of ``Model.freeze``; of some heads but not all, :func:`rests` says which.

    Raises:
        UnknownName: If there is no such stage or head.
        ConfigError: If nothing is left to train.
    """
    if not freeze:
        return plan
    heads, stages = _named(model, freeze)
    if model.heads and heads == frozenset(model.heads):
        stages |= {HEADS}
    kept = tuple({name: FROZEN if name in stages else state for name, state in at.items()} for at in plan.epochs)
    left = replace(plan, epochs=kept)
    if left.never_trained() == left.stages():
        raise ConfigError(
            f"Nothing is left to train: the method trains {_told(plan)}, and freeze={', '.join(freeze)} rests all of "
            "it; freeze less, or choose a method that trains more."
        )
    return left


def begin(model: Model, plan: Plan, freeze: Sequence[str], *, norms: bool) -> None:
    """Freeze what is not the plan's to say, heads by name and norms; stages follow the plan, epoch by epoch.

    Args:
        model: The model that is about to be trained.
        plan: What is trained.
        freeze: As for :func:`rested`.
        norms: Whether all norms with running statistics are pinned; those that are pinned already stay so anyway.
    """
    never = plan.never_trained()
    frozen = [f"{stream}.{stage}" for stream, stages in model.frozen().items() for stage in sorted(stages)]
    loose = [stage for stage in frozen if stage not in never]
    heads = _named(model, freeze)[0]
    loose += [f"{HEADS}.{name}" for name in sorted(model.frozen_heads - heads)]
    if loose:
        log.info("Frozen until now, and trained by the method: %s. freeze=… keeps a stage as it is.", ", ".join(loose))
    model.set_frozen_heads(heads)
    if norms:
        if not any(norms_of(backbone) for backbone in model.backbones.values()):
            log.info("No norm of these backbones has running statistics, so that none is pinned.")
        model.freeze_norms()


def trained_tasks(model: Model, freeze: Sequence[str]) -> dict[str, Task]:
    """Give the tasks of the heads that are not to be frozen, by name; the others learn nothing of the labels."""
    resting = _named(model, freeze)[0]
    return {n: task for head, held in model.heads.items() if head not in resting for n, task in held.tasks().items()}


def rests(model: Model, name: str) -> bool:
    """Say whether a parameter never trains, though its stage may: that of a frozen head, or of a pinned norm.

    Args:
        model: The model.
        name: The parameter's name.
    """
    room, _, rest = name.partition(".")
    if room == HEADS:
        return rest.partition(".")[0] in model.frozen_heads
    stream, _, inside = rest.partition(".")
    native = inside.removeprefix("native.")
    pins = model.pinned_norms.get(stream, {})
    if native == inside or not pins.get(model.backbones[stream].stage_of(native)):
        return False
    return has_statistics(model.backbones[stream].native.get_submodule(native.rpartition(".")[0]))


def _named(model: Model, freeze: Sequence[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Give the heads and the plan's stages that names mean."""
    heads: frozenset[str] = frozenset()
    stages: set[str] = set()
    for name in freeze:
        found = heads_named(model.spec, name)
        if found is not None:
            heads |= found
            continue
        for stream, within in stages_up_to(model.spec, model.backbones, name).items():
            stages |= {f"{stream}.{stage}" for stage in within}
    return heads, frozenset(stages)


def _told(plan: Plan) -> str:
    trained = sorted(plan.stages() - plan.never_trained())
    return ", ".join(trained) if len(trained) <= 8 else f"{', '.join(trained[:8])} and {len(trained) - 8} more"
