"""The optimizer's groups: a real learning rate for every stage, and no parameter left out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from zoo.contracts.method import FROZEN, Plan
from zoo.errors import ConfigError
from zoo.model import Model

__all__ = ["HEADS", "parameter_groups", "schedule", "stage_of", "trained_names"]

HEADS = "heads"
"""The stage of all heads in a plan."""


def stage_of(model: Model, name: str) -> str:
    """Give the plan's stage of a model's parameter or buffer: ``stream.stage``, or ``heads``.

    A backbone's own tensors outside the library's module belong to its last stage.
    """
    room, _, rest = name.partition(".")
    if room == HEADS:
        return HEADS
    stream, _, inside = rest.partition(".")
    within, _, native = inside.partition(".")
    stage = model.backbones[stream].stage_of(native) if within == "native" else "post"
    return f"{stream}.{stage}"


def parameter_groups(model: Model, plan: Plan, *, weight_decay: float) -> list[dict[str, Any]]:
    """Group the parameters that the plan ever trains, by stage, with and without weight decay.

    All groups are made at the start, those that a later epoch unfreezes too, so their number never changes. Biases and
    other vectors (norms, scales) get no weight decay. A group's ``lr`` is the stage's highest in the plan; the
    scheduler scales it to what each epoch says.

    Raises:
        ConfigError: If the plan trains nothing, or does not name a stage of the model.
    """
    never = plan.never_trained()
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        stage = stage_of(model, name)
        if stage not in plan.stages():
            raise ConfigError(f"The plan does not say what {stage} does, to which {name} belongs.")
        if stage in never:
            continue
        decays = parameter.ndim > 1
        group = groups.setdefault(
            (stage, decays),
            {
                "params": [],
                "stage": stage,
                "lr": max(states.get(stage, FROZEN).lr for states in plan.epochs),
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    if not groups:
        raise ConfigError("The method trains nothing of this model: it has no heads, or all stages stay frozen.")
    return list(groups.values())


def schedule(plan: Plan, stage: str, *, steps: int, warmup: float) -> Callable[[int], float]:
    """Give a group's factor on its learning rate as a pure function of the step.

    The factor is the plan's rate in the step's epoch over the group's rate, times a linear warm-up and a cosine to 0.

    Args:
        plan: What trains when.
        stage: The group's stage.
        steps: Steps of the whole run, 1 or more.
        warmup: Share of the steps that warms up, in ``[0, 1)``.
    """
    highest = max(states.get(stage, FROZEN).lr for states in plan.epochs)
    per_epoch = steps / len(plan.epochs)
    rising = math.ceil(steps * warmup)

    def factor(step: int) -> float:
        state = plan.at(int(step / per_epoch)).get(stage, FROZEN)
        if not state.trainable or highest == 0:
            return 0.0
        if step < rising:
            return state.lr / highest * (step + 1) / rising
        through = min(1.0, (step - rising) / max(1, steps - rising))
        return state.lr / highest * (1 + math.cos(math.pi * through)) / 2

    return factor


def trained_names(model: Model, plan: Plan) -> list[str]:
    """List the state-dict keys that training may change: all but those of stages that stay frozen."""
    never = plan.never_trained()
    return [name for name in model.state_dict() if stage_of(model, name) not in never]
