"""The conformance kit passes what is sound and names the rule that a faulty head or method breaks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import ClassVar

import pytest
import torch
from torch import nn

from zoo.contracts.head import Head
from zoo.contracts.method import FROZEN, Method, Plan, StageState
from zoo.testing import check_head, check_method
from zoo_heads.classifier import Classifier
from zoo_heads.prototype import Prototype

# --- heads


class CountsMissing(Classifier):
    """Takes a missing label for the first class."""

    def loss(self, output, target):
        return nn.functional.cross_entropy(output, target.clamp(min=0))


class MetricsCountMissing(Classifier):
    def update(self, metrics, output, target):
        metrics.update(output, target.clamp(min=0))


class WithoutGradient(Classifier):
    """Has a parameter that nothing uses."""

    def __init__(self, spec, config, context):
        super().__init__(spec, config, context)
        self.idle = nn.Parameter(torch.zeros(1))


class NeverLearns(Classifier):
    def score(self, features):
        return super().score(features) * 0


class CutOff(Classifier):
    """Gives a loss without labels that is not connected to anything."""

    def loss(self, output, target):
        return super().loss(output, target) if bool((target >= 0).any()) else torch.zeros(())


class OneTooFew(Classifier):
    def decode(self, output):
        return super().decode(output)[1:]


class NoMissing(Classifier):
    def example_labels(self):
        return [label for label in super().example_labels() if label is not None]


class TwoOutputs(Classifier):
    def forward(self, features):
        outputs = super().forward(features)
        return {**outputs, "more": next(iter(outputs.values()))}


class OtherBest(Classifier):
    @property
    def best_metric(self):
        return "beauty", True


class Forgets(Classifier):
    """Keeps something that no bundle keeps."""

    made = count()

    def __init__(self, spec, config, context):
        super().__init__(spec, config, context)
        self.shift = float(next(self.made))

    def score(self, features):
        return super().score(features) + self.shift * torch.arange(len(self.config.classes))


class LearnsBeside(Prototype):
    """Keeps what it learnt of the rows where no bundle looks."""

    def learnt(self):
        super().learnt()
        self.means = self.prototypes.clone()
        self.prototypes.zero_()

    def score(self, features):
        return -torch.cdist(features.pooled, getattr(self, "means", self.prototypes))


class WholeLoss(Classifier):
    def loss(self, output, target):
        return super().loss(output, target).expand(2)


def install_head(registry_with, head: type[Head]) -> dict:
    registry_with("strange", **{head.__name__: head}, zoo_heads=lambda: {"strange": f"zoo_strange:{head.__name__}"})
    return {"type": "strange", "name": "kind", "classes": ["a", "b", "c"]}


def test_a_sound_head_passes(registry_with):
    check_head(install_head(registry_with, Classifier))


@pytest.mark.parametrize(
    ("head", "rule"),
    [
        (CountsMissing, "a sample without a label must add nothing to the loss"),
        (MetricsCountMissing, "a sample without a label must add nothing to the metrics"),
        (WithoutGradient, "Every parameter of a head must get a gradient"),
        (NeverLearns, "Training must make the loss smaller"),
        (CutOff, "without any label the loss must be 0 and connected"),
        (OneTooFew, "decode must give one prediction a sample"),
        (NoMissing, "must have a missing label among them"),
        (TwoOutputs, "must give one output a task"),
        (OtherBest, "best_metric must be one of"),
        (Forgets, "must be bit-equal after saving and loading"),
        (LearnsBeside, "must be bit-equal after saving and loading"),
        (WholeLoss, "the loss must be a finite scalar"),
    ],
)
def test_a_faulty_head_fails_by_the_rule_that_it_breaks(registry_with, head, rule):
    with pytest.raises(AssertionError, match=rule):
        check_head(install_head(registry_with, head))


# --- methods


@dataclass(frozen=True)
class Sound(Method):
    """Trains everything at one rate, but for the stem."""

    summary = "Everything but the stem"

    def plan(self, streams, *, epochs, lr):
        stages = [f"{stream}.{stage.name}" for stream, spec in streams.items() for stage in spec.stages]
        states = {stage: FROZEN if stage.endswith(".stem") else StageState(True, lr) for stage in stages}
        return Plan(tuple({**states, "heads": StageState(True, lr)} for _ in range(epochs)))


def changed(change):
    """Make a method whose plan is a sound one, changed."""

    @dataclass(frozen=True)
    class Faulty(Sound):
        def plan(self, streams, *, epochs, lr):
            plan = super().plan(streams, epochs=epochs, lr=lr)
            return change(plan)

    return Faulty


def without(stage):
    return lambda plan: Plan(tuple({k: v for k, v in states.items() if k != stage} for states in plan.epochs))


def having(state):
    return lambda plan: Plan(tuple({**states, "main.s2": state} for states in plan.epochs))


def by_chance(plan):
    state = StageState(True, torch.rand(()).item() + 1e-6)
    return Plan(tuple({**states, "heads": state} for states in plan.epochs))


def growing(plan):
    return Plan((*plan.epochs, plan.epochs[-1]))


@dataclass(frozen=True)
class Unready(Sound):
    """Carries something along from plan to plan."""

    made: ClassVar[list[int]] = []

    def plan(self, streams, *, epochs, lr):
        self.made.append(1)
        return super().plan(streams, epochs=epochs, lr=lr * len(self.made))


@dataclass(frozen=True)
class Silent(Sound):
    summary = ""


def install_method(registry_with, method: type[Method]) -> str:
    registry_with("odd", Odd=method, zoo_methods=lambda: {"odd": "zoo_odd:Odd"})
    return "odd"


def test_a_sound_method_passes(registry_with):
    check_method(install_method(registry_with, Sound))


@pytest.mark.parametrize(
    ("method", "rule"),
    [
        (changed(without("main.s3")), "must name every stage"),
        (changed(without("heads")), "must name every stage"),
        (changed(lambda plan: Plan(plan.epochs[:-1])), "one entry an epoch"),
        (changed(by_chance), "must be the same when it is made again"),
        (changed(growing), "one entry an epoch"),
        (changed(having(StageState(True, 1e-3, train="adapters"))), "has nothing of it"),
        (Unready, "must be the same when it is made again"),
        (Silent, "one-line summary"),
    ],
    ids=["a stage", "the heads", "an epoch", "chance", "epochs", "no adapters", "state", "silent"],
)
def test_a_faulty_method_fails_by_the_rule_that_it_breaks(registry_with, method, rule):
    with pytest.raises(AssertionError, match=rule):
        check_method(install_method(registry_with, method))
