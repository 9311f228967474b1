"""What a plan freezes is bit-equal from phase to phase, and what it trains changes, method by method."""

from itertools import pairwise

import pytest
import torch

import zoo
from zoo.contracts.method import FROZEN, Plan, StageState
from zoo.errors import ConfigError, UnknownName
from zoo.training import engine
from zoo.training.following import follow
from zoo.training.planning.groups import stage_of

RUN = {"batch_size": 8, "device": "cpu", "warmup": 0.0, "schedule": "constant", "lr": 0.05, "validation": 0.25}
STAGES = ("stem", "s1", "s2", "s3", "s4", "post")


def changes(before, after):
    return {key for key in before if not torch.equal(before[key], after[key])}


def stages(model, before, after):
    return {stage_of(model, key) for key in changes(before, after)}


@pytest.mark.slow
def test_gradual_unfreezing_changes_one_stage_more_each_epoch_and_nothing_else(model, table, state, snapshots):
    one = model()
    states = [state(one)]

    zoo.fit(one, table(rows=20), **RUN, epochs=6, method="gradual_unfreezing", lr_divisor=1.0)

    order = ["heads", "main.s4", "main.s3", "main.s2", "main.s1", "main.stem"]
    found = [stages(one, *pair) for pair in pairwise(states + snapshots)]
    assert found == [set(order[: at + 1]) for at in range(6)]


@pytest.mark.slow
def test_gradual_unfreezing_on_plateau_takes_the_step_when_the_value_gets_no_better(
    model, table, state, snapshots, monkeypatch
):
    scores = iter([0.5, 0.6, 0.6, 0.4, 0.7, 0.7, 0.1, 0.9])
    one = model()
    states = [state(one)]
    judge = zoo.History.values
    told = []

    def values(history):
        while len(told) < len(judge(history)):
            told.append(next(scores))
        return told

    monkeypatch.setattr(zoo.History, "values", values)
    zoo.fit(one, table(rows=20), **RUN, epochs=8, method="gradual_unfreezing", on_plateau=2, lr_divisor=1.0)

    found = [len(stages(one, *pair)) for pair in pairwise(states + snapshots)]
    plan = Plan(tuple({"heads": StageState(True, 1.0)} for _ in range(6)), patience=2)
    assert found == [1 + plan.phase(epoch, told) for epoch in range(8)] == [1, 1, 1, 1, 2, 2, 2, 3]


def test_linear_probing_leaves_the_backbone_alone_and_fine_tuning_does_not(model, table, state, snapshots):
    one = model()
    states = [state(one)]

    zoo.fit(one, table(rows=20), **RUN, epochs=4, method="linear_probe_then_finetune")

    every = {"heads", *(f"main.{stage}" for stage in STAGES[:-1])}
    assert [stages(one, *pair) for pair in pairwise(states + snapshots)] == [{"heads"}, {"heads"}, every, every]


def test_bitfit_changes_biases_alone_and_no_running_statistics(model, table, state, snapshots):
    one = model(backbone="timm:test_efficientnet")
    before = state(one, "backbones.")

    zoo.fit(one, table(rows=20), **RUN, epochs=1, method="bitfit")

    changed = {key for key in changes(before, one.state_dict()) if key in before}
    assert changed == {key for key in before if key.endswith(".bias")}
    one.train()
    one(torch.randn(4, 3, 32, 32))
    assert {key for key in changes(before, one.state_dict()) if key in before} == changed


def test_partial_changes_the_last_stage_and_its_statistics(model, table, state):
    one = model()
    before = state(one)

    zoo.fit(one, table(rows=20), **RUN, epochs=2, method="partial")

    assert stages(one, before, one.state_dict()) == {"heads", "main.s4"}
    assert any("running_mean" in key for key in changes(before, one.state_dict()))


def test_a_plan_goes_from_biases_to_everything_and_back(model):
    one = model().train()
    states = {f"main.{stage}": StageState(True, 1.0, train="biases") for stage in STAGES}
    whole = {f"main.{stage}": StageState(True, 1.0) for stage in STAGES}
    heads = {"heads": StageState(True, 1.0)}
    made = Plan(({**states, **heads}, {**whole, **heads}, {**states, **heads}))
    learning = []
    for epoch in range(3):
        follow(one, made, epoch)
        one.train()
        norm = one.backbones["main"].native.layer4[0].bn1
        learning.append((sum(p.requires_grad for p in one.backbones.parameters()), norm.training))

    biases = sum(name.endswith(".bias") for name, _ in one.backbones.named_parameters())
    assert learning == [(biases, False), (len(list(one.backbones.parameters())), True), (biases, False)]


def test_heads_that_a_plan_freezes_for_an_epoch_rest(model):
    one = model()
    trained = {f"main.{stage}": StageState(True, 1.0) for stage in STAGES}
    made = Plan(({**trained, "heads": FROZEN}, {**trained, "heads": StageState(True, 1.0)}))

    follow(one, made, 0)
    assert not any(p.requires_grad for p in one.heads.parameters())
    follow(one, made, 1)
    assert all(p.requires_grad for p in one.heads.parameters())


# --- what a plan cannot be


class Planned:
    """Makes a method of one plan."""

    def __init__(self, registry_with):
        self._install = registry_with

    def __call__(self, made):
        from dataclasses import dataclass

        from zoo.contracts.method import Method

        @dataclass(frozen=True)
        class Odd(Method):
            summary = "Odd"

            def plan(self, streams, *, epochs, lr):
                return made({f"{s}.{stage.name}" for s, outline in streams.items() for stage in outline.stages}, epochs)

        self._install("odd", Odd=Odd, zoo_methods=lambda: {"odd": "zoo_odd:Odd"})
        return "odd"


HEADS = {"heads": StageState(True, 1.0)}


@pytest.mark.parametrize(
    ("made", "error", "sentence"),
    [
        (
            lambda names, e: Plan((dict.fromkeys([*names, "heads"], FROZEN),) * e),
            ConfigError,
            "The method trains nothing",
        ),
        (
            lambda names, e: Plan(({**dict.fromkeys(names, FROZEN), **HEADS, "main.s9": FROZEN},) * e),
            UnknownName,
            r"The method plans for a stage 'main\.s9' that is not there; there is main\.s",
        ),
        (
            lambda names, e: Plan(({**dict.fromkeys(names - {"main.s2"}, FROZEN), **HEADS},) * e),
            ConfigError,
            r"does not say what main\.s2 does in epoch 1",
        ),
        (
            lambda names, e: Plan(({**dict.fromkeys(names, FROZEN), **HEADS},) * (e + 1)),
            ConfigError,
            "planned 3 epochs, and 2 were asked for",
        ),
        (
            lambda names, e: Plan(
                ({**dict.fromkeys(names, FROZEN), "heads": StageState(True, 1.0, train="biases")},) * e
            ),
            ConfigError,
            "The method divides the heads",
        ),
        (
            lambda names, e: Plan(
                ({**dict.fromkeys(names, StageState(True, 1.0, train="adapters")), "heads": FROZEN},) * e
            ),
            ConfigError,
            "The method trains nothing of this model",
        ),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused_before_any_data_is_read(registry_with, model, made, error, sentence):
    name = Planned(registry_with)(made)

    with pytest.raises(error, match=sentence) as caught:
        zoo.fit(model(), "no such data", method=name, epochs=2, device="cpu")

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "run", [{"method": "gradual_unfreezing", "on_plateau": 2}, {"schedule": "plateau"}], ids=["method", "schedule"]
)
def test_what_goes_by_validation_values_needs_validation_rows(model, table, run):
    with pytest.raises(ConfigError, match="needs validation rows, and there are none; set validation above 0"):
        zoo.fit(model(), table(rows=16), epochs=2, validation=0, device="cpu", **run)


def test_the_plateau_schedule_lowers_the_rates_of_a_run(model, table, monkeypatch):
    seen = []
    make = engine.make_optimizer

    def spy(*given):
        made = make(*given)
        made.register_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[-1]["lr"]))
        return made

    monkeypatch.setattr(engine, "make_optimizer", spy)
    history = zoo.fit(
        model(), table(rows=20), epochs=5, batch_size=15, device="cpu", lr=1e-8, warmup=0.0, validation=0.25,
        schedule="plateau", schedule_settings={"patience": 0, "drop": 0.5}, method="feature_extraction",
    )  # fmt: skip

    values, expected, best, rate = history.values(), [], float("-inf"), 1e-8
    for value in [*values]:
        expected.append(rate)
        best, rate = (value, rate) if value > best else (best, rate * 0.5)
    assert seen == pytest.approx(expected)
    assert seen[-1] < seen[0]
