"""zoo's own training methods: their plans, their settings, and the conformance kit."""

import math

import pytest

import zoo
from zoo.contracts.blocks import outline_of
from zoo.contracts.method import FROZEN, StageState
from zoo.errors import ConfigError, UnknownName
from zoo.registry import registry
from zoo.testing import check_method

STAGES = ("stem", "s1", "s2", "s3", "s4", "post")


@pytest.fixture(scope="module")
def streams():
    outline = outline_of(zoo.build("timm:test_resnet", weights=None, seed=0).backbones["main"])
    return {"rgb": outline, "flow": outline}


def method(name, **settings):
    return registry().method_class(name).with_settings(name, settings)


def test_feature_extraction_freezes_every_stage_and_trains_the_heads(streams):
    plan = method("feature_extraction").plan(streams, epochs=3, lr=0.5)

    expected = {f"{stream}.{stage}": FROZEN for stream in ("rgb", "flow") for stage in STAGES}
    assert plan.epochs == ({**expected, "heads": StageState(trainable=True, lr=0.5)},) * 3
    assert plan.never_trained() == set(expected)


@pytest.mark.parametrize(("settings", "scale"), [({}, 0.1), ({"backbone_lr_scale": 2}, 2.0)])
def test_fine_tuning_trains_everything_the_backbones_at_a_share_of_the_rate(streams, settings, scale):
    plan = method("fine_tuning", **settings).plan(streams, epochs=2, lr=0.5)

    expected = {
        f"{stream}.{stage}": StageState(trainable=True, lr=0.5 * scale)
        for stream in ("rgb", "flow")
        for stage in STAGES
    }
    assert plan.epochs == ({**expected, "heads": StageState(trainable=True, lr=0.5)},) * 2
    assert plan.never_trained() == set()


def test_the_last_epochs_states_go_on_after_the_end(streams):
    plan = method("fine_tuning").plan(streams, epochs=2, lr=0.5)

    assert plan.at(7) == plan.at(1)


@pytest.mark.slow
def test_a_method_conforms_on_a_transformer():
    check_method("feature_extraction", "timm:test_vit")


def test_an_unknown_method_is_named_with_the_nearest():
    with pytest.raises(UnknownName, match=r"No method is called 'finetuning'.*Did you mean 'fine_tuning'"):
        registry().method_class("finetuning")


@pytest.mark.parametrize(
    ("name", "setting", "sentence"),
    [
        ("fine_tuning", "backbone_lr_scal", "The method 'fine_tuning' has no option .*; it takes backbone_lr_scale"),
        ("feature_extraction", "depth", "The method 'feature_extraction' has no option 'depth'; it takes none"),
    ],
)
def test_an_unknown_setting_is_named_with_the_nearest(name, setting, sentence):
    with pytest.raises(UnknownName, match=sentence) as caught:
        method(name, **{setting: 1})

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scale", [0, -1.0, math.nan, math.inf, "0.1", None, True])
def test_a_rate_that_cannot_be_used_is_one_sentence(scale):
    with pytest.raises(ConfigError, match="backbone_lr_scale must be a number above 0, got") as caught:
        method("fine_tuning", backbone_lr_scale=scale)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["feature_extraction", "fine_tuning"])
def test_a_method_names_its_source(name):
    assert "arXiv:" in registry().method_class(name).__doc__
