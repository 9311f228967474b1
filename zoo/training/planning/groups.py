"""The optimizer's groups: a real learning rate for every stage and block, and no parameter left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from zoo.contracts.blocks import blocks_of, layer_of, outline_of, part_of
from zoo.contracts.method import Plan, StageState, Trains
from zoo.contracts.objective import Objective
from zoo.contracts.outline import BackboneOutline
from zoo.errors import ConfigError
from zoo.model import Model
from zoo.training.planning.resting import rests

__all__ = [
    "HEADS",
    "OBJECTIVE",
    "Slot",
    "check_groups",
    "own_groups",
    "outlines",
    "parameter_groups",
    "rate_in",
    "slots",
    "stage_of",
    "trained_names",
]

HEADS = "heads"
"""The stage of all heads in a plan."""
OBJECTIVE = "objective"
"""The stage of an objective's own parameters, which are in no plan."""


def stage_of(model: Model, name: str) -> str:
    """Give the plan's stage of a model's parameter or buffer: ``stream.stage``, or ``heads``.

    An adapter's tensors belong to the stage of the layer beside which they stand; other tensors of a backbone outside
    the library's module to its last stage.
    """
    room, _, rest = name.partition(".")
    if room == HEADS:
        return HEADS
    stream, _, inside = rest.partition(".")
    backbone = model.backbones[stream]
    layer = layer_of(backbone, inside)
    return f"{stream}.{backbone.spec.stages[-1].name if layer is None else backbone.stage_of(layer)}"


def outlines(model: Model) -> dict[str, BackboneOutline]:
    """Give what a method makes its plan from: stream name to the outline of its backbone."""
    return {stream: outline_of(backbone) for stream, backbone in model.backbones.items()}


@dataclass(frozen=True, slots=True)
class Slot:
    """What decides a parameter's learning rate and weight decay.

    Args:
        stage: Its stage in the plan.
        block: The number of its block in the stage; 0 where no plan tells blocks apart.
        blocks: How many blocks the stage has, 1 where no plan tells them apart.
        part: Whether it is one of the ``weights``, ``biases`` or ``adapters``; ``all`` where no plan tells these apart.
        decays: Whether it has weight decay.
    """

    stage: str
    block: int
    blocks: int
    part: str
    decays: bool

    def rate(self, state: StageState) -> float:
        """Give its rate where its stage is in a state; 0 where it does not train."""
        return state.lr_of(self.block, self.blocks) if state.trainable and selects(state.train, self.part) else 0.0


def selects(train: Trains, part: str) -> bool:
    """Say whether a parameter trains in a stage of which this trains."""
    return train == "all" or part in ("all", train)


def slots(model: Model, plan: Plan) -> dict[str, Slot]:
    """Give the slot of each parameter of a model, by name; shared modules count once.

    Parameters of the same stage, block, part and decay share a slot, and blocks and parts are told apart only where the
    plan does. Without weight decay are biases and other vectors (norms, scales), and what the backbone's library says
    should have none, such as position embeddings.

    Raises:
        ConfigError: If the plan does not name the stage of a parameter.
    """
    known = plan.stages()
    numbers = {stream: blocks_of(backbone) for stream, backbone in model.backbones.items()}
    bare = {stream: backbone.undecayed() for stream, backbone in model.backbones.items()}
    sizes = {
        f"{stream}.{stage.name}": stage.blocks
        for stream, backbone in model.backbones.items()
        for stage in outline_of(backbone, numbers[stream]).stages
    }
    found = {}
    for name, parameter in model.named_parameters():
        stage = stage_of(model, name)
        if stage not in known:
            raise ConfigError(f"The plan does not say what {stage} does, to which {name} belongs.")
        _, stream, inside = name.split(".", 2)
        layer = None if stage == HEADS else layer_of(model.backbones[stream], inside)
        states = [state for state in plan.states_of(stage) if state.trainable]
        apart = layer is not None and any(state.decay != 1 for state in states)
        found[name] = Slot(
            stage,
            numbers[stream].get(layer or "", 0) if apart else 0,
            sizes[stage] if apart else 1,
            part_of(inside) if any(state.train != "all" for state in states) else "all",
            parameter.ndim > 1 and (layer is None or layer not in bare[stream]),
        )
    return found


def rate_in(group: Mapping[str, Any], states: Mapping[str, StageState]) -> float:
    """Give the rate of an optimizer's group in an epoch whose states are these; 0 where it rests."""
    if group["stage"] == OBJECTIVE:
        return float(group["own"])
    slot = Slot(group["stage"], group["block"], group["blocks"], group["part"], decays=True)
    return slot.rate(states.get(slot.stage, StageState(trainable=False)))


def parameter_groups(model: Model, plan: Plan, *, weight_decay: float) -> list[dict[str, Any]]:
    """Group the parameters that the plan ever trains, by :func:`slots`.

    All groups are made at the start, those that a later epoch unfreezes too, so their number never changes. A group's
    ``lr`` is its highest in the plan; the schedule scales it to what each step has.

    Returns:
        Groups as torch's optimizers take them; what a slot says stands beside, as plain values.

    Raises:
        ConfigError: If the plan trains nothing, or does not name a stage of the model.
    """
    groups: dict[Slot, dict[str, Any]] = {}
    parameters = dict(model.named_parameters())
    for name, slot in slots(model, plan).items():
        rate = max(slot.rate(state) for state in plan.states_of(slot.stage))
        if rate == 0 or rests(model, name):
            continue
        told = {"stage": slot.stage, "block": slot.block, "blocks": slot.blocks, "part": slot.part}
        decay = weight_decay if slot.decays else 0.0
        group = groups.setdefault(slot, {"params": [], **told, "lr": rate, "weight_decay": decay})
        group["params"].append(parameters[name])
    if not groups:
        raise ConfigError("The method trains nothing of this model: it has no heads, or all stages stay frozen.")
    return list(groups.values())


def own_groups(objective: Objective | None, lr: float, *, weight_decay: float) -> list[dict[str, Any]]:
    """Group the parameters of an objective itself, which train at one rate from the first epoch to the last.

    Args:
        objective: The objective; None for none.
        lr: The heads' rate.
        weight_decay: Weight decay of matrices.
    """
    groups = []
    for decays in (True, False):
        held = [p for p in objective.parameters() if p.requires_grad and (p.ndim > 1) == decays] if objective else []
        if held and objective is not None:
            rate = lr * objective.lr_scale
            told = {"stage": OBJECTIVE, "block": 0, "blocks": 1, "part": "all", "lr": rate, "own": rate}
            groups.append({"params": held, **told, "weight_decay": weight_decay if decays else 0.0})
    return groups


def check_groups(
    model: Model,
    made: Iterable[Mapping[str, Any]],
    asked: Iterable[Mapping[str, Any]],
    objective: Objective | None = None,
) -> None:
    """Check that an optimizer has the groups that it was asked for: each parameter in exactly one, with its own rate.

    Args:
        model: The model.
        made: The optimizer's groups.
        asked: Those that it should have, as :func:`parameter_groups` and :func:`own_groups` give them.
        objective: The run's objective, if it has one.

    Raises:
        ConfigError: If a parameter is in none, in several, or in one of another rate or stage; the message names it.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    names |= {id(p): f"objective.{name}" for name, p in objective.named_parameters()} if objective is not None else {}
    homes: dict[int, list[Mapping[str, Any]]] = {}
    for group in made:
        for parameter in group["params"]:
            homes.setdefault(id(parameter), []).append(group)
    for group in asked:
        for parameter in group["params"]:
            found = homes.pop(id(parameter), [])
            told = (
                f"The optimizer must have each parameter that trains in exactly one group, and {names[id(parameter)]}"
            )
            if len(found) != 1:
                raise ConfigError(f"{told} is in {len(found)}; give it the groups as they come.")
            for key in ("stage", "block", "blocks", "part", "lr"):
                if not _same(found[0].get(key), group[key]):
                    raise ConfigError(
                        f"{told} is in one whose {key} is {found[0].get(key)!r} instead of {group[key]!r}; give it the "
                        "groups as they come."
                    )
    if homes:
        name = names.get(next(iter(homes)), "a tensor that is not the model's")
        raise ConfigError(
            f"The optimizer trains {name}, which the method never trains; give it the groups as they come."
        )


def _same(one: object, other: object) -> bool:
    return bool(one == other) if not isinstance(one, torch.Tensor) else float(one) == other


def trained_names(model: Model, plan: Plan) -> list[str]:
    """List the state-dict keys that training may change: all but those of stages and parts that stay frozen."""
    never = plan.never_trained()
    still = {
        name
        for name, slot in slots(model, plan).items()
        if not any(slot.rate(state) for state in plan.states_of(slot.stage))
    }
    return [
        name
        for name in model.state_dict()
        if name not in still and stage_of(model, name) not in never and not rests(model, name)
    ]
