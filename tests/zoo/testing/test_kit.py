"""The conformance kit passes what is sound and names the rule that a faulty head or method breaks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import ClassVar

import pytest
import torch
from torch import nn

from zoo.augmentation import Augmentation
from zoo.contracts.head import Head
from zoo.contracts.method import FROZEN, Method, Plan, StageState
from zoo.contracts.objective import Objective
from zoo.errors import ConfigError
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
    when = "Never but in a test."

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


class HeadsOwn(Objective):
    """The heads' losses alone."""

    def losses(self, model, batch):
        return batch.losses


def having_objective(kind):
    """Make a method whose objective is of a kind."""

    @dataclass(frozen=True)
    class WithObjective(Sound):
        def objective(self, model, *, seed=0):
            return kind()

    return WithObjective


class Noisy(HeadsOwn):
    """Adds what no seed decides."""

    drawn = count(1)

    def losses(self, model, batch):
        return {name: loss * next(self.drawn) for name, loss in batch.losses.items()}


class Counting(HeadsOwn):
    """Counts steps where no checkpoint looks."""

    def __init__(self):
        super().__init__()
        self.steps = 0

    def losses(self, model, batch):
        self.steps += 1
        return {name: loss * self.steps for name, loss in batch.losses.items()}


class CountingWell(Counting):
    """Counts them in a buffer."""

    def __init__(self):
        HeadsOwn.__init__(self)
        self.register_buffer("steps", torch.zeros(()))


class Unwilling(HeadsOwn):
    """Trains nothing."""

    def losses(self, model, batch):
        return {name: loss * 0 for name, loss in batch.losses.items()}


class Blank(HeadsOwn):
    labelled = False


@dataclass(frozen=True)
class Meddles(Sound):
    """Changes what it says never trains."""

    def finish(self, model):
        with torch.no_grad():
            next(model.backbones["main"].parameters()).add_(1)


@dataclass(frozen=True)
class KeepsBeside(Sound):
    """Adds to the outputs what no bundle keeps."""

    def finish(self, model):
        model.task("kind").register_forward_hook(lambda *given: {key: value + 1 for key, value in given[2].items()})


@dataclass(frozen=True)
class Undocumented(Sound):
    """Has a setting, and does not say what it means."""

    strength: float = 1.0


@dataclass(frozen=True)
class Untold(Sound):
    """Has a setting that is no JSON.

    Args:
        strength: How strong.
    """

    strength: object = torch.float32


class Stirring(HeadsOwn):
    def stepped(self, model, progress):
        stem = next(model.backbones["main"].parameters())
        if not stem.requires_grad:
            with torch.no_grad():
                stem.add_(1e-3)


@dataclass(frozen=True)
class Thaws(Sound):
    """Trains all, and what the user froze as well."""

    def objective(self, model, *, seed=0):
        return Stirring()

    def plan(self, streams, *, epochs, lr):
        plan = super().plan(streams, epochs=epochs, lr=lr)
        return Plan(tuple(dict.fromkeys(states, states["heads"]) for states in plan.epochs))


def install_method(registry_with, method: type[Method]) -> str:
    registry_with("odd", Odd=method, zoo_methods=lambda: {"odd": "zoo_odd:Odd"})
    return "odd"


@pytest.mark.slow
def test_a_sound_method_passes_and_says_what_it_bettered(registry_with):
    found = check_method(install_method(registry_with, Sound))

    assert found.betters == "kind/balanced_accuracy"
    assert found.last == 1.0
    assert found.several_tasks == "works"


@pytest.mark.slow
def test_a_sound_objective_that_counts_in_a_buffer_passes(registry_with):
    check_method(install_method(registry_with, having_objective(CountingWell)))


class Bright(Objective):
    """Learns from pictures without labels how bright they are; labels are for nothing."""

    labelled = False
    passes = False
    views = (None, Augmentation(flip=1.0))

    def losses(self, model, batch):
        one, other = (model.features(view)["main"].pooled for view in batch.views)
        return {"apart": (one - other).square().mean(), "size": one.square().mean()}


@dataclass(frozen=True)
class Blind(Sound):
    """Learns without labels."""

    labelled = False

    def objective(self, model, *, seed=0):
        return Bright()

    def plan(self, streams, *, epochs, lr):
        plan = super().plan(streams, epochs=epochs, lr=lr)
        return Plan(tuple({**states, "heads": FROZEN} for states in plan.epochs))


@pytest.mark.slow
def test_a_method_without_labels_passes_and_says_by_what_it_was_judged(registry_with):
    found = check_method(install_method(registry_with, Blind))

    assert found.betters == "train_loss"
    assert found.last < found.first


class Alike(HeadsOwn):
    """Asks for rows without labels, beside those that have some."""

    unlabelled_views = (None,)

    def losses(self, model, batch):
        seen = model.features(batch.unlabelled[0])["main"].pooled
        return {**batch.losses, "size": 1e-4 * seen.square().mean()}


@pytest.mark.slow
def test_a_method_that_learns_from_rows_without_labels_gets_some_from_the_kit(registry_with):
    check_method(install_method(registry_with, having_objective(Alike)))


@dataclass(frozen=True)
class OneTask(Sound):
    """Takes one task, and says so."""

    def objective(self, model, *, seed=0):
        if len(model.tasks()) > 1:
            raise ConfigError("The method 'odd' takes one task.")
        return HeadsOwn()


@pytest.mark.slow
def test_a_method_may_say_that_it_does_not_take_several_tasks(registry_with):
    assert check_method(install_method(registry_with, OneTask)).several_tasks == "The method 'odd' takes one task."


@pytest.mark.slow
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
        (Undocumented, "The docstring must say what the setting 'strength' means"),
        (Untold, r"told\(\) must give the settings as JSON"),
        (having_objective(Blank), "must say the same of labels"),
        (having_objective(Unwilling), "Training must get 0.75 of the training rows right"),
        (having_objective(Noisy), "A run must end the same by the same seed"),
        (having_objective(Counting), "A run that goes on from a checkpoint must end as one that never stopped"),
        (Meddles, "is never trained and must not change"),
        (KeepsBeside, "the output must be bit-equal after saving and loading"),
        (Thaws, "is frozen by the user and must not change"),
    ],
    ids=[
        *("a stage", "the heads", "an epoch", "chance", "epochs", "no adapters", "state", "silent"),
        *("undocumented", "untold", "labels", "learns nothing", "no seed", "resumes otherwise", "meddles", "unsaved"),
        "thaws",
    ],
)
def test_a_faulty_method_fails_by_the_rule_that_it_breaks(registry_with, method, rule):
    with pytest.raises(AssertionError, match=rule):
        check_method(install_method(registry_with, method))
