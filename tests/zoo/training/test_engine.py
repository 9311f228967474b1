"""What the engine does between epochs, with methods that stand here only."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch

import zoo
from zoo.contracts.method import FROZEN, Method, Plan, StageState
from zoo.errors import ConfigError
from zoo.testing import check_method
from zoo.training.judging import epochs
from zoo.training.judging.history import EpochRow
from zoo.training.planning.groups import stage_of
from zoo.training.step import Step


@dataclass(frozen=True)
class Gradual(Method):
    """Trains the heads, and one stage from an epoch on until another.

    Args:
        stage: The stage.
        since: The first epoch in which it trains.
        until: The first in which it rests again.
    """

    stage: str = "s4"
    since: int = 2
    until: int = 99

    summary = "Heads at once, one stage later"

    def plan(self, streams, *, epochs, lr):
        frozen = {f"{name}.{stage.name}": FROZEN for name, spec in streams.items() for stage in spec.stages}
        heads = {"heads": StageState(trainable=True, lr=lr)}
        awake = {f"{name}.{self.stage}": StageState(trainable=True, lr=lr) for name in streams}
        return Plan(
            tuple({**frozen, **heads, **(awake if self.since <= e < self.until else {})} for e in range(epochs))
        )


@dataclass(frozen=True)
class Short(Method):
    """Plans one epoch too few."""

    summary = "Wrong"

    def plan(self, streams, *, epochs, lr):
        return Gradual().plan(streams, epochs=epochs - 1, lr=lr)


@pytest.fixture
def gradual(registry_with):
    registry_with(
        "gradual",
        Gradual=Gradual,
        Short=Short,
        zoo_methods=lambda: {"gradual": "zoo_gradual:Gradual", "short": "zoo_gradual:Short"},
    )


SETTINGS = {"method": "gradual", "epochs": 4, "batch_size": 8, "device": "cpu", "warmup": 0.0}


def changed(model, before, after):
    return {stage_of(model, key) for key in before if not torch.equal(before[key], after[key])}


@pytest.mark.slow
def test_a_stage_changes_from_the_epoch_on_in_which_it_is_unfrozen(gradual, model, table, state, snapshots):
    one = model()
    states = [state(one)]

    history = zoo.fit(one, table(rows=16), **SETTINGS, since=2)

    states += snapshots
    steps = [changed(one, *pair) for pair in pairwise(states)]
    assert steps == [{"heads"}, {"heads"}, {"heads", "main.s4"}, {"heads", "main.s4"}]
    assert not history.cached_features


@pytest.mark.slow
def test_every_tensor_of_an_unfrozen_stage_changes(gradual, model, table, state, snapshots):
    one = model()
    before = state(one)

    zoo.fit(one, table(rows=16), **SETTINGS, since=3)

    s4 = [key for key in before if stage_of(one, key) == "main.s4"]
    assert any("running_mean" in key for key in s4)
    assert all(torch.equal(before[key], snapshots[2][key]) for key in s4)
    assert not any(torch.equal(before[key], snapshots[3][key]) for key in s4)


@pytest.mark.slow
def test_a_stage_that_is_frozen_again_rests_although_its_optimizer_has_momentum(gradual, model, table, snapshots):
    one = model()

    zoo.fit(one, table(rows=16), **SETTINGS, since=0, until=2)

    assert changed(one, snapshots[0], snapshots[1]) == {"heads", "main.s4"}
    assert changed(one, snapshots[1], snapshots[3]) == {"heads"}


@pytest.mark.slow
def test_a_later_run_forgets_what_an_earlier_one_froze(gradual, model, table, state):
    one = model()
    zoo.fit(one, table(rows=16), method="feature_extraction", epochs=1, device="cpu")
    before = state(one)

    zoo.fit(one, table(rows=16), method="fine_tuning", epochs=1, batch_size=8, validation=0, device="cpu")

    assert all(not torch.equal(before[key], value) for key, value in one.state_dict().items())


@pytest.mark.slow
def test_a_method_of_ones_own_conforms(gradual):
    check_method("gradual")


def test_a_method_that_plans_too_few_epochs_is_refused(gradual, model, table):
    with pytest.raises(ConfigError, match="The method planned 3 epochs, and 4 were asked for"):
        zoo.fit(model(), table(), **{**SETTINGS, "method": "short"})


def test_an_epoch_is_told_in_one_line():
    row = EpochRow(3, 0.5, 0.25, {"kind": {"accuracy": 0.75, "f1": 0.5}})

    assert epochs.describe(row) == (
        "epoch   3  train loss 0.5000  validation loss 0.2500  kind: accuracy 0.7500 f1 0.5000"
    )


def test_the_losses_of_all_tasks_are_added(model):
    two = [{"type": "classifier", "name": n, "classes": ["a", "b"]} for n in ("one", "two")]
    both = model(*two)
    inputs, targets = torch.randn(4, 3, 32, 32), {name: torch.tensor([0, 1, 1, 0]) for name in ("one", "two")}

    result = Step(both)(targets=targets, inputs={"image": inputs})

    parts = [torch.nn.functional.cross_entropy(result["outputs"][name], targets[name]) for name in targets]
    torch.testing.assert_close(result["loss"], sum(parts))
