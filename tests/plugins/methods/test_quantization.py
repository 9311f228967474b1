"""Training with the rounding in every pass."""

import shutil

import pytest
import torch

import zoo
from zoo.contracts.rounding import rounding_of
from zoo.data import Column, Table, TensorSample
from zoo.errors import ConfigError


def made_up(rows=32):
    noise = torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    samples = tuple(TensorSample(f"picture {n}", one + 1.5 * (n % 2)) for n, one in enumerate(noise))
    return Table(
        "made-up", {"image": samples}, {"kind": Column("kind", "text", tuple("ab"[n % 2] for n in range(rows)))}
    )


def trained(**options):
    head = zoo.head("classifier", name="kind", classes=["a", "b"], norm=True)
    model = zoo.build("timm:test_resnet", head, weights=None, seed=0)
    given = {"epochs": 2, "batch_size": 8, "validation": 0.0, "progress": False, **options}
    zoo.fit(model, made_up(), method="quantization", **given)
    return model


def state(model):
    return {key: one.clone() for key, one in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.slow
def test_it_learns_with_the_rounding_and_is_quantized_afterwards():
    model = trained(epochs=4, lr=1e-2)

    assert model.spec.streams["main"].backbone.quantized.observer == "minmax"
    assert rounding_of(model.backbones["main"]).watch is None
    assert zoo.evaluate(model, made_up())["kind"]["accuracy"] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"observer": "histogram"},
        {"calibration_rows": 1},
        {"follow": 0.0},
        {"momentum": 0.5},
        {"backbone_lr_scale": 1.0},
    ],
)
def test_every_setting_changes_what_comes_out(options):
    assert not same(state(trained(lr=1e-2)), state(trained(lr=1e-2, **options)))


@pytest.mark.slow
def test_a_frozen_stage_stays_bit_equal_and_its_ranges_rest():
    head = zoo.head("classifier", name="kind", classes=["a", "b"], norm=True)
    fresh = zoo.build("timm:test_resnet", head, weights=None, seed=0)
    model = trained(freeze="s1", validation=0.0)
    zoo.quantize(fresh, made_up())

    before, after = state(fresh), state(model)
    stem = [
        key
        for key in before
        if ".native." in key and fresh.backbones["main"].stage_of(key.partition(".native.")[2]) in ("stem", "s1")
    ]
    assert stem
    assert all(torch.equal(before[key], after[key]) for key in stem)
    assert not same(before, after)


@pytest.mark.slow
def test_a_run_that_goes_on_ends_as_one_that_never_stopped(tmp_path):
    whole = trained(epochs=4)

    trained(epochs=4, checkpoint=tmp_path / "run", checkpoint_every=1)
    newest = sorted((tmp_path / "run").glob("checkpoint-*"), key=lambda one: int(one.name.rpartition("-")[2]))
    for one in newest[1:]:
        shutil.rmtree(one)
    assert len(newest) > 1
    assert same(state(whole), state(trained(epochs=4, checkpoint=tmp_path / "run", resume=True)))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"observer": "best"}, "observer must be"),
        ({"calibration_rows": 0}, "calibration_rows"),
        ({"follow": 1.5}, "follow must be a share"),
        ({"momentum": 2.0}, "momentum must be"),
        ({"backbone_lr_scale": 0.0}, "backbone_lr_scale"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        trained(**settings)
