"""Plans: which entry an epoch follows, and what cannot be one."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.contracts.method import FROZEN, Plan, StageState
from zoo.errors import ConfigError

STEPS = tuple({"heads": StageState(True, 1.0 + at)} for at in range(4))


def phases(values, patience=2):
    plan = Plan(STEPS, patience=patience)
    return [plan.phase(epoch, values) for epoch in range(len(values) + 1)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], [0]),
        ([1, 2, 3, 4], [0, 0, 0, 0, 0]),
        ([1, 1, 1], [0, 0, 0, 1]),  # as good as the best is not better
        ([3, 2, 1], [0, 0, 0, 1]),
        ([3, 2, 4, 1, 2], [0, 0, 0, 0, 0, 1]),
        ([5, 1, 1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 2, 2, 3, 3, 3]),  # each step waits anew; the last one stays
        ([5, 1, 1, 4, 4], [0, 0, 0, 1, 1, 2]),  # better than the step began, and not than the best
        ([5, 1, 1, 6, 1], [0, 0, 0, 1, 1, 1]),
        ([math.nan, math.nan, 1], [0, 0, 1, 1]),
        ([-0.3, -0.4, -0.5], [0, 0, 0, 1]),
    ],
)
def test_the_next_phase_begins_when_the_value_has_not_improved_for_some_epochs(values, expected):
    assert phases(values) == expected


@given(st.lists(st.floats(allow_nan=True, allow_infinity=False), max_size=30), st.integers(1, 5))
def test_phases_never_go_back_and_depend_on_the_epochs_before_alone(values, patience):
    found = phases(values, patience)
    plan = Plan(STEPS, patience=patience)

    assert found == sorted(found)
    assert all(after - before <= 1 for before, after in pairwise(found))
    for epoch in range(len(values) + 1):
        assert plan.phase(epoch, values[:epoch]) == plan.phase(epoch, [*values[:epoch], 1e9]) == found[epoch]
        assert plan.at(epoch, values[:epoch]) == STEPS[found[epoch]]


def test_a_plan_that_goes_by_values_says_so_when_they_are_missing():
    with pytest.raises(ValueError, match="The phase of epoch 2 needs 2 values, got 1"):
        Plan(STEPS, patience=1).at(2, [0.5])


def test_a_plan_by_epochs_reads_no_values_and_goes_on_with_its_last_entry():
    plan = Plan(STEPS)

    assert [plan.at(epoch) for epoch in range(6)] == [*STEPS, STEPS[-1], STEPS[-1]]
    assert plan.states_of("s1") == (FROZEN,) * 4


@pytest.mark.parametrize(
    "state",
    [
        {"trainable": True, "lr": 0.0},
        {"trainable": True, "lr": -1e-3},
        {"trainable": True, "lr": math.nan},
        {"trainable": True, "lr": math.inf},
        {"trainable": True, "lr": True},
        {"trainable": True, "lr": "0.1"},
        {"trainable": False, "lr": 1e-3},
        {"trainable": True, "lr": 1.0, "decay": 0.0},
        {"trainable": True, "lr": 1.0, "decay": math.nan},
        {"trainable": True, "lr": 1.0, "train": "weights"},
    ],
)
def test_a_state_that_cannot_be_trained_is_one_sentence(state):
    with pytest.raises(ConfigError, match=r"must be .*, got ") as caught:
        StageState(**state)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "plan",
    [
        {"epochs": ()},
        {"epochs": STEPS, "patience": 0},
        {"epochs": STEPS, "patience": 1, "restarts": (2,)},
        {"epochs": STEPS, "restarts": (0,)},
        {"epochs": STEPS, "restarts": (4,)},
    ],
)
def test_a_plan_that_cannot_be_followed_is_one_sentence(plan):
    with pytest.raises(ConfigError, match="A plan"):
        Plan(**plan)


def test_the_rate_of_a_block_falls_from_the_last_to_the_first():
    state = StageState(True, 1.0, decay=0.5)

    assert [state.lr_of(block, 4) for block in range(4)] == [0.125, 0.25, 0.5, 1.0]
