"""Schedules beside torch's own classes, and the rate of every group at every step of a plan."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from zoo.contracts.method import FROZEN, Plan, StageState
from zoo.errors import ConfigError, UnknownName
from zoo.training.planning.schedules import SCHEDULES, Rates, check_schedule, make_scheduler, rates_of, renew, shape_of

HEADS = {"stage": "heads", "block": 0, "blocks": 1, "part": "all"}
STAGE = {"stage": "main.s1", "block": 0, "blocks": 1, "part": "all"}


def plan(*rates, restarts=(), patience=None):
    """Make a plan in which heads have rate 1, and a stage the given one in each epoch; 0 is frozen."""
    states = [StageState(True, rate) if rate else FROZEN for rate in rates]
    return Plan(tuple({"main.s1": s, "heads": StageState(True, 1.0)} for s in states), restarts, patience)


def ours(schedule, steps, warmup, **settings):
    rates = rates_of(plan(0.0), schedule, settings, steps, 1, warmup)
    return [rates.rate(HEADS, step) for step in range(steps)]


def torchs(make, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def warmed(make, rising):
    def both(optimizer):
        rise = LinearLR(optimizer, start_factor=1 / rising, total_iters=rising - 1)
        return SequentialLR(optimizer, [rise, make(optimizer)], milestones=[rising])

    return both


# --- beside torch


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_cosine_is_torchs(floor):
    expected = torchs(lambda optimizer: CosineAnnealingLR(optimizer, T_max=40, eta_min=floor), 40)

    assert ours("cosine", 40, 0.0, floor=floor) == pytest.approx(expected)


@pytest.mark.parametrize("floor", [0.0, 0.25])
def test_linear_is_torchs(floor):
    expected = torchs(lambda optimizer: LinearLR(optimizer, 1.0, end_factor=floor, total_iters=40), 40)

    assert ours("linear", 40, 0.0, floor=floor) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("cosine", lambda optimizer: CosineAnnealingLR(optimizer, T_max=30)),
        ("linear", lambda optimizer: LinearLR(optimizer, 1.0, end_factor=0.0, total_iters=30)),
        ("constant", lambda optimizer: LambdaLR(optimizer, lambda step: 1.0)),
    ],
)
def test_warm_up_is_torchs_linear_rise(name, make):
    expected = torchs(warmed(make, 10), 40)

    assert ours(name, 40, 0.25) == pytest.approx(expected)


@pytest.mark.parametrize(("steps", "warmup"), [(40, 0.25), (10, 0.3), (100, 0.3), (7, 0.0)])
def test_one_cycle_is_torchs(steps, warmup):
    def make(optimizer):
        return OneCycleLR(optimizer, max_lr=1.0, total_steps=steps, pct_start=warmup, cycle_momentum=False)

    expected = torchs(make, steps - 1)

    assert ours("one_cycle", steps, warmup)[: steps - 1] == pytest.approx(expected)


def test_one_cycle_rises_for_three_tenths_and_the_others_for_a_twentieth_if_nothing_is_said():
    found = {name: ours(name, 100, None) for name in SCHEDULES}

    assert {name: rates.index(max(rates)) + 1 for name, rates in found.items()} == {
        "constant": 5,
        "cosine": 5,
        "linear": 5,
        "one_cycle": 30,
        "plateau": 5,
    }


@given(
    st.lists(st.one_of(st.integers(-5, 5), st.just(math.nan)), max_size=25),
    st.integers(0, 3),
    st.sampled_from([0.1, 0.5]),
    st.sampled_from([0.0, 1.0]),
)
def test_plateau_is_torchs(values, patience, drop, threshold):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = ReduceLROnPlateau(
        optimizer, mode="max", factor=drop, patience=patience, threshold=threshold, threshold_mode="abs", eps=0.0
    )
    shape = shape_of("plateau", {"drop": drop, "patience": patience, "threshold": threshold})

    for count, value in enumerate(values):
        scheduler.step(float(value))

        assert shape.fall(0.5, values[: count + 1]) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)


# --- rates of a plan


def test_a_groups_rate_is_the_plans_times_the_schedule_in_each_epoch():
    rates = rates_of(plan(0, 1e-3, 0, 5e-4), "cosine", {}, 40, 4, 0.0)

    found = [rates.rate(STAGE, step) for step in range(40)]

    planned = [0.0] * 10 + [1e-3] * 10 + [0.0] * 10 + [5e-4] * 10
    assert found == pytest.approx([rate * (1 + math.cos(math.pi * s / 40)) / 2 for s, rate in enumerate(planned)])


def test_the_schedule_begins_anew_where_the_plan_says_with_its_warm_up():
    rates = rates_of(plan(0, 0, 0.1, 0.1, restarts=(2,)), "cosine", {}, 40, 4, 0.1)

    alone = rates_of(plan(0, 0), "cosine", {}, 20, 2, 0.1)
    part = [alone.rate(HEADS, step) for step in range(20)]
    assert [rates.rate(HEADS, step) for step in range(40)] == pytest.approx(part * 2)
    assert [rates.rate(STAGE, step) for step in range(20, 40)] == pytest.approx([0.1 * rate for rate in part])


def test_the_phase_of_a_plan_that_goes_by_values_sets_the_rate():
    rates = rates_of(plan(0, 1e-3, patience=1), "constant", {}, 40, 4, 0.0)

    values = [0.5, 0.4, 0.6]
    assert [rates.rate(STAGE, step, values) for step in (0, 10, 19, 20, 30, 39)] == [0, 0, 0, 1e-3, 1e-3, 1e-3]
    # right after the last step of an epoch its value is not there yet
    assert rates.rate(STAGE, 20, values[:1]) == 0


def test_plateau_drops_rates_from_the_epoch_on_whose_values_ask_for_it_and_forgets_at_a_restart():
    settings = {"patience": 0, "drop": 0.5}
    rates = rates_of(plan(0, 0, 0, 0.1, 0.1, restarts=(3,)), "plateau", settings, 50, 5, 0.0)

    values = [3.0, 2.0, 1.0, 1.0]
    assert [rates.rate(HEADS, 10 * epoch, values[:epoch]) for epoch in range(5)] == [1, 1, 0.5, 1, 1]


@pytest.mark.parametrize(("epochs", "per_epoch"), [(3, 1), (7, 3), (10, 49), (100, 11)])
def test_an_epochs_first_and_last_step_have_that_epochs_rate(epochs, per_epoch):
    rates = rates_of(
        plan(*(float(epoch % 2) for epoch in range(epochs))), "cosine", {}, epochs * per_epoch, epochs, 0.0
    )

    for epoch in range(epochs):
        for step in (epoch * per_epoch, (epoch + 1) * per_epoch - 1):
            assert (rates.rate(STAGE, step) > 0) == (epoch % 2 == 1)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_a_schedule_is_a_pure_function_of_the_step(name):
    rates = rates_of(plan(0, 1e-3, 0, 5e-4), name, {}, 40, 4, 0.1)
    forwards = [rates.rate(STAGE, step, [1.0, 2.0, 3.0]) for step in range(40)]

    backwards = [rates.rate(STAGE, step, [1.0, 2.0, 3.0]) for step in reversed(range(40))]

    assert backwards[::-1] == forwards


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_a_single_step_is_not_wasted(name):
    assert rates_of(plan(0), name, {}, 1, 1, 0.05).rate(HEADS, 0) == 1.0


# --- in an optimizer


def optimizer_of(*groups):
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr, **slot} for lr, slot in groups])


def test_a_scheduler_sets_every_groups_real_rate_at_every_step():
    optimizer = optimizer_of((1.0, HEADS), (1e-3, STAGE))
    rates = rates_of(plan(0, 1e-3, 0, 5e-4), "cosine", {}, 40, 4, 0.1)

    scheduler = make_scheduler(rates, optimizer, 40, list)

    for step in range(40):
        found = [group["lr"] for group in optimizer.param_groups]
        assert found == pytest.approx([rates.rate(HEADS, step), rates.rate(STAGE, step)], rel=1e-12)
        optimizer.step()
        scheduler.step()


def test_rates_are_set_again_when_the_value_of_an_epoch_is_there():
    values = []
    optimizer = optimizer_of((1.0, HEADS), (1e-3, STAGE))
    scheduler = make_scheduler(
        rates_of(plan(0, 1e-3, patience=1), "constant", {}, 4, 4, 0.0), optimizer, 4, lambda: values
    )
    seen = []
    for value in (3.0, 2.0, 2.5):
        seen.append(optimizer.param_groups[1]["lr"])
        optimizer.step()
        scheduler.step()
        values.append(value)
        renew(scheduler)

    assert seen == [0.0, 0.0, 1e-3]
    assert scheduler.get_last_lr() == [group["lr"] for group in optimizer.param_groups] == [1.0, 1e-3]


def test_any_scheduler_of_torch_can_be_made_by_a_function():
    optimizer = optimizer_of((1.0, HEADS))

    made = make_scheduler(lambda over, steps: StepLR(over, steps // 2), optimizer, 10, list)

    assert isinstance(made, StepLR)
    assert made.step_size == 5
    renew(made)
    assert optimizer.param_groups[0]["lr"] == 1.0


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda optimizer, steps: ReduceLROnPlateau(optimizer), "take schedule='plateau'"),
        (lambda optimizer, steps: optimizer, "schedule must give a scheduler of torch, got SGD"),
    ],
)
def test_what_is_no_scheduler_of_steps_is_refused(make, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make_scheduler(make, optimizer_of((1.0, HEADS)), 10, list)


@pytest.mark.parametrize(
    ("schedule", "settings", "warmup", "error", "sentence"),
    [
        ("cosin", {}, None, UnknownName, r"No schedule is called 'cosin'; choose of cosine"),
        ("cosine", {"flor": 0.1}, None, UnknownName, "The schedule 'cosine' has no option 'flor'; it takes floor"),
        ("constant", {"floor": 0.1}, None, UnknownName, "has no option 'floor'; it takes none"),
        ("cosine", {"floor": 2}, None, ConfigError, "floor of the schedule must be a number from 0 to 1, got 2"),
        ("linear", {"floor": math.nan}, None, ConfigError, "floor of the schedule must be"),
        ("one_cycle", {"start": "x"}, None, ConfigError, "start of the schedule must be"),
        ("plateau", {"drop": 0}, None, ConfigError, "drop must be above 0 and below 1"),
        ("plateau", {"patience": 1.5}, None, ConfigError, "patience of the schedule must be a whole number"),
        ("plateau", {"threshold": -1}, None, ConfigError, "threshold of the schedule must be"),
        (3, {}, None, ConfigError, "schedule must be a name or a function"),
        (lambda optimizer, steps: None, {"floor": 0.1}, None, ConfigError, "leave those of zoo.fit out"),
        (lambda optimizer, steps: None, {}, 0.1, ConfigError, "leave those of zoo.fit out"),
    ],
)
def test_a_schedule_that_cannot_be_made_is_one_sentence(schedule, settings, warmup, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        check_schedule(schedule, settings, warmup)

    assert "\n" not in str(caught.value)


def test_rates_know_the_epoch_of_a_step():
    rates = Rates(plan(0, 0, 0), shape_of("constant", {}), steps=21, epochs=3, warmup=0.0)

    assert [rates.epoch(step) for step in (0, 6, 7, 13, 14, 20)] == [0, 0, 1, 1, 2, 2]
