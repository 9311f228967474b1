"""What a user freezes for a run rests whatever the method says."""

from __future__ import annotations

import logging

import pytest
import torch

import zoo
from zoo.errors import ConfigError, UnknownName
from zoo.freezing import has_statistics

COLOUR = {"type": "classifier", "name": "colour", "classes": ["a", "b"], "target": "kind"}
KIND = {"type": "classifier", "name": "kind", "classes": ["a", "b"]}
RUN = {"epochs": 2, "batch_size": 8, "validation": 0.0, "device": "cpu"}


def moved(model, before):
    """Give the stages and heads of which anything differs."""
    stage_of = model.backbones["main"].stage_of
    found = set()
    for key, value in model.state_dict().items():
        if not torch.equal(before[key], value):
            room, _, rest = key.partition(".")
            name = rest.partition(".")[0]
            found.add(f"heads.{name}" if room == "heads" else stage_of(key.removeprefix("backbones.main.native.")))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("freeze", ["s2", ["s2"], ("main.s1", "s2")])
def test_stages_that_are_named_rest_and_all_others_follow_the_method(model, table, state, freeze):
    one = model()
    before = state(one)
    history = zoo.fit(one, table(), method="fine_tuning", freeze=freeze, **RUN)

    assert moved(one, before) == {"s3", "s4", "heads.kind"}
    assert one.frozen() == {"main": frozenset({"stem", "s1", "s2"})}
    assert history.settings["freeze"] == ((freeze,) if isinstance(freeze, str) else tuple(freeze))


def test_the_rows_of_a_model_have_the_rates_of_its_last_plan(model, table):
    one = model()
    assert {row.rate for row in one.stages()} == {None}
    zoo.fit(one, table(), method="fine_tuning", backbone_lr_scale=0.1, lr=0.01, freeze="s1", **RUN)
    rates = {row.name: row.rate for row in one.stages()}

    assert (rates["main.s1"], rates["main.s2"], rates["heads.kind"]) == (None, pytest.approx(0.001), 0.01)


def test_a_frozen_head_learns_nothing_and_the_other_does(model, table, state):
    one = model(COLOUR, KIND)
    before = state(one)
    zoo.fit(one, table(), method="feature_extraction", freeze="heads.colour", **RUN)

    assert moved(one, before) == {"heads.kind"}
    assert one.frozen_heads == {"colour"}


def test_a_frozen_regression_head_keeps_its_scale(model, table, state):
    age = {"type": "regression", "name": "age"}
    rows = table(age=("number", [float(n) for n in range(40)]), kind=("text", ["ab"[n % 2] for n in range(40)]))
    one = model(age, KIND)
    before = state(one)
    zoo.fit(one, rows, method="feature_extraction", freeze="heads.age", **RUN)

    assert moved(one, before) == {"heads.kind"}


@pytest.mark.slow
def test_with_all_heads_frozen_the_backbone_alone_learns(model, table, state):
    one = model()
    before = state(one)
    zoo.fit(one, table(), method="fine_tuning", freeze="heads", **RUN)

    assert moved(one, before) == {"stem", "s1", "s2", "s3", "s4"}


@pytest.mark.slow
def test_what_was_frozen_by_hand_follows_the_method_and_that_is_said(model, table, state, caplog):
    one = model(COLOUR, KIND).freeze("s1").freeze("heads.colour")
    before = state(one)
    with caplog.at_level(logging.INFO, logger="zoo"):
        zoo.fit(one, table(), method="fine_tuning", freeze="stem", **RUN)

    assert {"s1", "heads.colour"} <= moved(one, before)
    assert "Frozen until now, and trained by the method: main.s1, heads.colour. freeze=" in caplog.text


def test_pinned_norms_keep_their_statistics_in_every_stage_and_the_rest_learns(model, table, state):
    one = model()
    before = state(one)
    zoo.fit(one, table(), method="fine_tuning", freeze_norms=True, **RUN)

    after = one.backbones["main"].native.state_dict()
    statistics = [key for key in after if key.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert statistics
    assert all(torch.equal(before[f"backbones.main.native.{key}"], after[key]) for key in statistics)
    assert moved(one, before) == {"stem", "s1", "s2", "s3", "s4", "heads.kind"}


@pytest.mark.slow
def test_norms_whose_weights_were_frozen_by_hand_stay_so(model, table, state):
    one = model().freeze_norms("s3", weights=True)
    before = state(one)
    zoo.fit(one, table(), method="fine_tuning", **RUN)
    backbone = one.backbones["main"]
    norms = [
        f"backbones.main.native.{path}.{name}"
        for path, module in backbone.native.named_modules()
        if has_statistics(module) and backbone.stage_of(path) == "s3"
        for name in module.state_dict()
    ]

    assert norms
    assert all(torch.equal(before[key], one.state_dict()[key]) for key in norms)
    assert "s3" in moved(one, before)


@pytest.mark.slow
def test_that_there_are_no_norms_to_pin_is_said(model, table, caplog):
    with caplog.at_level(logging.INFO, logger="zoo"):
        zoo.fit(model(backbone="timm:test_vit?img_size=32"), table(), freeze_norms=True, **RUN)

    assert "No norm of these backbones has running statistics" in caplog.text


@pytest.mark.parametrize(
    ("method", "freeze"),
    [("feature_extraction", "heads"), ("fine_tuning", ["post", "heads"]), ("fine_tuning", ["heads", "main.post"])],
)
def test_a_run_that_would_train_nothing_is_refused_before_the_data_is_read(model, method, freeze):
    one = model()

    with pytest.raises(ConfigError, match=r"Nothing is left to train: the method trains .*heads.*, and freeze=.*heads"):
        zoo.fit(one, "no such folder", method=method, freeze=freeze)
    assert one.frozen_heads == frozenset()


@pytest.mark.parametrize(
    ("freeze", "words"),
    [
        ("s9", "no stage 's9'; its stages are stem, s1"),
        (["s1", "side.s1"], "no stream 'side'"),
        ("heads.color", "no head 'color'; its heads are kind"),
    ],
)
def test_what_is_not_there_is_refused_before_the_data_is_read(model, freeze, words):
    with pytest.raises(UnknownName, match=words):
        zoo.fit(model(), "no such folder", freeze=freeze)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"freeze": 3}, "freeze must be the name of a stage"),
        ({"freeze": [3]}, "freeze must be"),
        ({"freeze_norms": "s1"}, "freeze_norms must be True or False"),
    ],
)
def test_what_is_no_name_is_refused(model, settings, words):
    with pytest.raises(ConfigError, match=words):
        zoo.fit(model(), "no such folder", **settings)
