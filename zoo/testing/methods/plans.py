"""What must hold of a method before anything trains: what it says of itself, its plan, and its groups of parameters."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, fields

from torch import Tensor

from zoo.contracts.method import Method, Plan
from zoo.contracts.outline import BackboneOutline
from zoo.model import Model
from zoo.testing.methods.subject import EPOCHS
from zoo.testing.rules import rule, same
from zoo.training.planning.groups import outlines, parameter_groups, slots

__all__ = ["check_groups", "check_plan", "check_told"]


def check_told(method: Method) -> None:
    """See that a method says what it is, and each of its settings in its docstring and as JSON."""
    kind = type(method)
    rule(bool(method.summary), "A method must have a one-line summary.")
    for words in (method.summary, method.when):
        rule(words == " ".join(words.split()), f"summary and when must be one line each, got {words!r}.")
    told = method.told()
    try:
        again = json.loads(json.dumps(told, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise AssertionError(f"told() must give the settings as JSON, and {error}.") from error
    for field in fields(method):
        line = re.compile(rf"^\s+{field.name}: ", re.MULTILINE)
        rule(bool(line.search(kind.__doc__ or "")), f"The docstring must say what the setting {field.name!r} means.")
        told_so = field.name in again or getattr(method, field.name) is None
        rule(told_so, f"told() must tell the setting {field.name!r}, by its name.")


def check_plan(method: Method, streams: Mapping[str, BackboneOutline]) -> Plan:
    """See that a plan is plain, whole, and the same when it is made again."""
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


def check_groups(method: Method, model: Model, before: Mapping[str, Tensor]) -> Plan:
    """See that what trains is in one group of the optimizer each, on a model that the method has prepared.

    Args:
        method: The method.
        model: The model, prepared.
        before: Its state from before that.
    """
    plan = check_plan(method, outlines(model))
    places = slots(model, plan)
    groups = parameter_groups(model, plan, weight_decay=0.1)
    homes = Counter(id(parameter) for group in groups for parameter in group["params"])
    for key, parameter in model.named_parameters():
        trains = any(places[key].rate(state) > 0 for state in plan.states_of(places[key].stage))
        rule(homes[id(parameter)] == trains, f"{key} must be in {int(trains)} groups, is in {homes[id(parameter)]}.")
    for key in before:
        rule(key in model.state_dict(), f"{key} must still be there once the model is prepared.")
        same(before[key], model.state_dict()[key], f"{key} must not change when the model is prepared.")
    return plan
