"""The plan of each method beside one that was written by hand, on an outline that was, too."""

import math

import pytest

from zoo.contracts.method import FROZEN, StageState
from zoo.contracts.outline import BackboneOutline, StageOutline
from zoo.errors import ConfigError, UnknownName
from zoo.registry import registry
from zoo.testing import check_method

# stem | s1: 2 blocks | s2: no parameters | s3: 3 blocks | post: a norm
NET = BackboneOutline(
    (
        StageOutline("stem", 1, 100, 10),
        StageOutline("s1", 2, 200, 20),
        StageOutline("s2", 0, 0, 0),
        StageOutline("s3", 3, 300, 0),
        StageOutline("post", 1, 20, 10),
    )
)
SHALLOW = BackboneOutline((StageOutline("stem", 1, 10, 1), StageOutline("s1", 1, 20, 2), StageOutline("post", 0, 0)))
NAMES = ("stem", "s1", "s2", "s3", "post")


def plan(name, *, streams=None, epochs=4, lr=1.0, **settings):
    made = registry().method_class(name).with_settings(name, settings)
    return made.plan(streams or {"main": NET}, epochs=epochs, lr=lr)


def rates(plan, stream="main"):
    """Give the rate of each stage in each epoch, 0 for a frozen one; heads are the last."""
    names = [f"{stream}.{name}" for name in NAMES]
    return [
        [states[name].lr for name in (*(name for name in names if name in states), "heads")] for states in plan.epochs
    ]


# --- partial


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0, 0, 0.1, 0.1, 0.1, 1]),
        ({"stages": 2}, [0, 0.1, 0.1, 0.1, 0.1, 1]),
        ({"stages": 3, "backbone_lr_scale": 0.5}, [0.5, 0.5, 0.5, 0.5, 0.5, 1]),
        ({"since": "s3"}, [0, 0, 0, 0.1, 0.1, 1]),
        ({"since": "main.s1"}, [0, 0.1, 0.1, 0.1, 0.1, 1]),
        ({"since": "post"}, [0, 0, 0, 0, 0.1, 1]),
    ],
)
def test_partial_trains_the_last_stages_and_counts_post_with_the_last(settings, expected):
    assert rates(plan("partial", **settings)) == [expected] * 4


def test_partial_trains_no_stage_of_a_stream_that_is_not_named():
    made = plan("partial", streams={"rgb": NET, "flow": NET}, since="flow.s3")

    assert rates(made, "rgb")[0] == [0, 0, 0, 0, 0, 1]
    assert rates(made, "flow")[0] == [0, 0, 0, 0.1, 0.1, 1]


def test_partial_of_more_stages_than_there_are_is_refused():
    with pytest.raises(ConfigError, match="stages must be 2 or less, all that 'flow' has, got 3"):
        plan("partial", streams={"rgb": NET, "flow": SHALLOW}, stages=3)


def test_partial_of_an_unknown_stage_is_told_with_the_list():
    with pytest.raises(UnknownName, match=r"There is no stage 's7'; the stages are stem, s1, s2, s3, post\."):
        plan("partial", since="s7")


# --- discriminative


def test_discriminative_rates_fall_by_stage_from_the_heads_down():
    made = plan("discriminative", by="stage", decay=0.5, backbone_lr_scale=0.2)

    for row in rates(made):
        assert row == pytest.approx([0.025, 0.05, 0.1, 0.1, 0.1, 1])
    assert all(state.decay == 1 for state in made.at(0).values())


def test_discriminative_rates_fall_by_block_from_the_heads_down():
    made = plan("discriminative", decay=0.5)

    # the blocks from the top: s3 has 1, 2, 3; s1 has 4, 5; the stem has 6
    expected = {
        "main.post": [0.5],
        "main.s3": [0.125, 0.25, 0.5],
        "main.s1": [0.5**5, 0.5**4],
        "main.stem": [0.5**6],
    }
    for name, by_block in expected.items():
        state = made.at(0)[name]
        assert [state.lr_of(block, len(by_block)) for block in range(len(by_block))] == by_block


def test_discriminative_depth_is_counted_in_each_stream_for_itself():
    made = plan("discriminative", streams={"rgb": NET, "flow": SHALLOW}, decay=0.5)

    assert made.at(0)["rgb.stem"].lr == 0.5**6
    assert made.at(0)["flow.stem"].lr == 0.5**2


# --- gradual unfreezing


def test_gradual_unfreezing_is_the_table_of_ulmfit():
    made = plan("gradual_unfreezing", epochs=5, lr=0.01)

    first, second, third = 0.01 / 2.6, 0.01 / 2.6 / 2.6, 0.01 / 2.6 / 2.6 / 2.6
    expected = [
        [0, 0, 0, 0, 0, 0.01],
        [0, 0, 0, first, first, 0.01],
        [0, second, second, first, first, 0.01],
        [third, second, second, first, first, 0.01],
        [third, second, second, first, first, 0.01],
    ]
    # the stage without parameters goes with the one above it, in which its dropout would be felt
    for epoch, row in enumerate(expected):
        found = rates(made)[epoch]
        assert found[0:2] + found[3:] == pytest.approx(row[0:2] + row[3:])
        assert (found[2] > 0) == (found[3] > 0)
    assert made.patience is None


def test_gradual_unfreezing_waits_several_epochs_a_step_and_may_not_come_to_the_end():
    made = plan("gradual_unfreezing", epochs=5, epochs_per_step=2, lr_divisor=1)

    trained = [
        [name for name in ("stem", "s1", "s3") if made.at(epoch)[f"main.{name}"].trainable] for epoch in range(5)
    ]
    assert trained == [[], [], ["s3"], ["s3"], ["s1", "s3"]]
    assert all(state.lr in (0, 1) for states in made.epochs for state in states.values())


def test_gradual_unfreezing_on_plateau_gives_steps_for_the_values_to_go_through():
    made = plan("gradual_unfreezing", epochs=50, on_plateau=2)

    assert made.patience == 2
    assert [[state.trainable for state in states.values()].count(True) for states in made.epochs] == [1, 4, 5, 6]
    assert [made.phase(epoch, [3, 2, 1, 1, 1]) for epoch in range(6)] == [0, 0, 0, 1, 1, 2]


def test_gradual_unfreezing_goes_down_all_streams_side_by_side():
    made = plan("gradual_unfreezing", streams={"rgb": NET, "flow": SHALLOW}, epochs=4)

    assert [made.at(epoch)["rgb.s3"].trainable for epoch in range(4)] == [False, True, True, True]
    assert [made.at(epoch)["flow.s1"].trainable for epoch in range(4)] == [False, True, True, True]
    assert [made.at(epoch)["flow.stem"].trainable for epoch in range(4)] == [False, False, True, True]
    assert [made.at(epoch)["rgb.stem"].trainable for epoch in range(4)] == [False, False, False, True]


# --- linear probing, then fine-tuning


@pytest.mark.parametrize(
    ("epochs", "probe", "first"), [(10, 0.5, 5), (10, 0.3, 3), (2, 0.5, 1), (2, 0.9, 1), (3, 0.01, 1), (10, 0.99, 9)]
)
def test_a_probe_comes_first_and_the_schedule_begins_anew_after_it(epochs, probe, first):
    made = plan("linear_probe_then_finetune", epochs=epochs, probe=probe)

    assert rates(made) == [[0, 0, 0, 0, 0, 1]] * first + [[0.1] * 6] * (epochs - first)
    assert made.restarts == (first,)


def test_a_probe_and_fine_tuning_need_two_epochs():
    with pytest.raises(ConfigError, match="needs 2 epochs or more, one for each part, got 1"):
        plan("linear_probe_then_finetune", epochs=1)


# --- bitfit


def test_bitfit_trains_biases_where_there_are_some():
    made = plan("bitfit", backbone_lr_scale=0.5)

    biases = StageState(trainable=True, lr=0.5, train="biases")
    assert made.at(0) == {
        "main.stem": biases,
        "main.s1": biases,
        "main.s2": FROZEN,
        "main.s3": FROZEN,
        "main.post": biases,
        "heads": StageState(trainable=True, lr=1.0),
    }


def test_bitfit_of_a_backbone_without_biases_is_refused():
    bare = BackboneOutline((StageOutline("stem", 1, 10), StageOutline("s1", 2, 20)))

    with pytest.raises(ConfigError, match="bitfit trains biases, and the backbone of 'main' has none"):
        plan("bitfit", streams={"main": bare})


# --- all


METHODS = ("bitfit", "discriminative", "gradual_unfreezing", "linear_probe_then_finetune", "partial")


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_method_conforms_on_a_transformer(name):
    check_method(name, "timm:test_vit2")


@pytest.mark.parametrize("name", METHODS)
def test_a_method_names_its_source_and_how_it_differs(name):
    told = registry().method_class(name).__doc__

    assert "arXiv:" in told
    assert "urs" in told.partition("Source:")[2]


@pytest.mark.parametrize(
    ("name", "setting", "values"),
    [
        ("partial", "stages", [0, -1, 1.5, "2", True, None]),
        ("partial", "backbone_lr_scale", [0, math.nan, "0.1"]),
        ("partial", "since", [3, True]),
        ("discriminative", "decay", [0, -0.5, 1.5, math.nan, math.inf, "0.5", True, None]),
        ("discriminative", "backbone_lr_scale", [0, math.inf, None]),
        ("discriminative", "by", ["layer", None, 1]),
        ("gradual_unfreezing", "epochs_per_step", [0, 1.5, True, None]),
        ("gradual_unfreezing", "on_plateau", [0, 2.5, True]),
        ("gradual_unfreezing", "lr_divisor", [0, 0.5, math.nan, None]),
        ("linear_probe_then_finetune", "probe", [0, 1, 1.5, math.nan, None]),
        ("linear_probe_then_finetune", "finetune_lr_scale", [0, -1, math.inf]),
        ("bitfit", "backbone_lr_scale", [0, -1, math.nan, True]),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_sentence_that_names_it(name, setting, values):
    for value in values:
        with pytest.raises(ConfigError, match=f"{setting} must be .*, got ") as caught:
            plan(name, **{setting: value})

        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("partial", {"since": "s3", "stages": 2}, "since='s3' stands in place of stages"),
        (
            "gradual_unfreezing",
            {"on_plateau": 2, "epochs_per_step": 3},
            "on_plateau stands in place of epochs_per_step=3",
        ),
    ],
)
def test_settings_that_stand_for_each_other_are_not_both_taken(name, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        plan(name, **settings)
