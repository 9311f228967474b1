"""LoRA: what the plan trains, that it learns, and that the base stays as it was, bit for bit."""

import json

import pytest
import torch

import zoo
from zoo.bundle.digest import state_digest
from zoo.contracts.blocks import outline_of
from zoo.contracts.method import FROZEN, StageState
from zoo.contracts.outline import BackboneOutline, StageOutline
from zoo.data import Column, Table, TensorSample
from zoo.errors import ConfigError, UnknownName
from zoo.registry import registry
from zoo.testing import check_method

HEAD = {"type": "classifier", "name": "kind", "classes": ["a", "b"]}


@pytest.fixture(autouse=True)
def one_thread(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def method(**settings):
    return registry().method_class("lora").with_settings("lora", settings)


def build(reference="timm:test_resnet", seed=0):
    return zoo.build(reference, HEAD, weights=None, seed=seed)


def stripes(rows=40, side=48, seed=0):
    """Draw noise with stripes, which lie in odd pictures and stand in even ones: a sum of pixels tells nothing."""
    noise = torch.randn(rows, 3, side, side, generator=torch.Generator().manual_seed(seed))
    waves = 1.5 * torch.sin(torch.arange(side) * 1.6)
    pictures = [one + (waves[:, None] if n % 2 else waves[None]) for n, one in enumerate(noise)]
    samples = tuple(TensorSample(f"picture {seed} {n}", picture) for n, picture in enumerate(pictures))
    kinds = tuple("ab"[n % 2] for n in range(rows))
    return Table("stripes", {"image": samples}, {"kind": Column("kind", "text", kinds)})


def base(model):
    return state_digest(model.backbones["main"].native.state_dict())


SHORT = {"epochs": 1, "batch_size": 8, "device": "cpu", "rank": 2}


def test_the_plan_trains_the_adapters_of_each_stage_that_has_any_and_the_heads():
    stages = (StageOutline("stem", 1, 9), StageOutline("s1", 2, 90, adapters=8), StageOutline("post", 0, 0))

    plan = method(adapter_lr_scale=0.5).plan({"eye": BackboneOutline(stages)}, epochs=2, lr=0.25)

    adapted = StageState(trainable=True, lr=0.125, train="adapters")
    heads = StageState(trainable=True, lr=0.25)
    assert plan.epochs == ({"eye.stem": FROZEN, "eye.s1": adapted, "eye.post": FROZEN, "heads": heads},) * 2


def test_what_it_prepares_is_seen_by_the_plan():
    model = build()
    method(stages=["s3"], targets="all").prepare(model, seed=4)

    outline = outline_of(model.backbones["main"])

    assert {stage.name for stage in outline.stages if stage.adapters} == {"s3"}
    assert sum(stage.adapters for stage in outline.stages) == sum(p.numel() for p in model.adapters[0].parameters())


@pytest.mark.slow
def test_it_conforms_on_a_transformer():
    check_method("lora", "timm:test_vit")


@pytest.mark.slow
def test_adapters_learn_by_themselves_below_a_head_that_rests_and_the_base_stays_bit_equal():
    model = build("timm:test_efficientnet")
    before, head = base(model), state_digest(model.heads["kind"].state_dict())
    [first] = [zoo.evaluate(model, stripes(seed=9), device="cpu")["kind"]["accuracy"]]

    settings = {"epochs": 15, "batch_size": 8, "lr": 3e-2, "device": "cpu", "validation": 0.0}
    zoo.fit(model, stripes(), method="lora", rank=4, dropout=0.05, freeze="heads.kind", **settings)

    assert base(model) == before
    assert state_digest(model.heads["kind"].state_dict()) == head
    assert zoo.evaluate(model, stripes(seed=9), device="cpu")["kind"]["accuracy"] >= 0.9 > 0.7 >= first


@pytest.mark.slow
def test_nothing_is_trained_but_adapters_and_heads():
    model = build("timm:test_vit")
    model.add_adapters(rank=2)
    first = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    zoo.fit(model, stripes(side=160, rows=16), method="lora", **SHORT)

    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(first[name], tensor)}
    assert {name.split(".native.")[0].split(".adapters.")[0] for name in changed} == {"backbones.main", *_heads(model)}
    assert not [name for name in changed if ".native." in name]
    assert {name for name in first if ".adapters." in name} <= changed


def _heads(model):
    return {name for name in model.state_dict() if name.startswith("heads.")}


@pytest.mark.slow
def test_with_merge_the_model_is_plain_again_and_gives_what_its_adapters_gave():
    merged, kept = build(), build()
    before = base(merged)

    zoo.fit(merged, stripes(), method="lora", merge=True, **SHORT)
    zoo.fit(kept, stripes(), method="lora", **SHORT)

    assert merged.adapters == []
    assert base(merged) != before
    batch = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(merged.eval()(batch)["kind"], kept.eval()(batch)["kind"], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_second_run_goes_on_with_the_same_adapters_and_others_are_refused():
    model = build()
    zoo.fit(model, stripes(), method="lora", **SHORT)
    adapter, trained = model.adapters[0], state_digest(model.adapters[0].state_dict())

    zoo.fit(model, stripes(), method="lora", **SHORT)

    assert model.adapters == [adapter]
    assert state_digest(adapter.state_dict()) != trained
    with pytest.raises(ConfigError, match="merge_adapters"):
        zoo.fit(model, stripes(), method="lora", **{**SHORT, "rank": 5})


@pytest.mark.slow
def test_another_method_rests_the_kept_adapters_and_takes_no_features_of_others(caplog):
    """Kept features are of one adapter and one scale: with another, or none, they are computed anew."""
    import copy

    caplog.set_level("INFO", logger="zoo")
    model = build()
    zoo.fit(model, stripes(), method="lora", **SHORT)
    scaled, without = build(), copy.deepcopy(model)
    scaled.add_adapters(rank=2, alpha=99)
    scaled.load_state_dict(model.state_dict())
    without.remove_adapters()
    settings = {"method": "feature_extraction", "epochs": 1, "batch_size": 8, "device": "cpu"}
    computed = []
    for one in (model, model, scaled, without):
        before = {name: t.clone() for name, t in one.state_dict().items() if name.startswith("backbones.")}
        caplog.clear()
        history = zoo.fit(one, stripes(), **settings)
        computed.append(any("Computing the frozen features" in line for line in caplog.messages))
        assert history.cached_features
        assert all(torch.equal(one.state_dict()[name], tensor) for name, tensor in before.items())

    assert computed == [True, False, True, True]


@pytest.mark.slow
def test_a_kept_prefix_is_of_the_adapters_in_it(caplog):
    caplog.set_level("INFO", logger="zoo")
    model = build()
    zoo.fit(model, stripes(), method="lora", **SHORT)
    other = build()
    other.add_adapters(rank=2, seed=7)
    settings = {"method": "fine_tuning", "freeze": "s2", "epochs": 1, "batch_size": 8, "device": "cpu"}
    seen = []
    for one in (model, other):
        start = {n: t.clone() for n, t in one.state_dict().items() if ".adapters.lora.parts.layer2" in n}
        caplog.clear()
        zoo.fit(one, stripes(), **settings)
        seen.append(any("Computing" in line for line in caplog.messages))
        assert start
        assert all(torch.equal(one.state_dict()[name], tensor) for name, tensor in start.items())

    assert seen == [True, True]


@pytest.mark.slow
def test_the_run_is_the_same_with_the_same_seed_and_another_with_another():
    digests = []
    for seed in (1, 1, 2):
        model = build()
        zoo.fit(model, stripes(), method="lora", seed=seed, dropout=0.2, **SHORT)
        digests.append(state_digest(model.adapters[0].state_dict()))

    assert digests[0] == digests[1] != digests[2]


@pytest.mark.slow
def test_a_run_that_was_stopped_and_goes_on_ends_bit_equal(tmp_path):
    import shutil

    settings = {**SHORT, "method": "lora", "epochs": 3, "dropout": 0.2}
    whole, again = build(), build()
    zoo.fit(whole, stripes(), checkpoint=tmp_path / "run", keep_checkpoints=9, **settings)
    first, *later = sorted((tmp_path / "run").glob("checkpoint-*"))
    held = {str(file.relative_to(first)) for file in first.rglob("*.safetensors")}
    for folder in later:
        shutil.rmtree(folder)

    zoo.fit(again, stripes(), checkpoint=tmp_path / "run", resume=True, **settings)

    assert later
    assert "adapters/lora/adapter_model.safetensors" in held
    assert "backbones/main/model.safetensors" not in held
    ours, theirs = whole.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())


@pytest.mark.slow
def test_it_is_kept_in_a_bundle_with_its_settings(tmp_path):
    model = build()
    zoo.fit(model, stripes(), method="lora", **SHORT)

    path = model.save(tmp_path / "bundle")

    assert json.loads((path / "adapters/lora/adapter_config.json").read_text())["r"] == 2
    assert zoo.inspect(path).provenance["settings"]["rank"] == 2
    batch = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(zoo.load(path)(batch)["kind"], model.eval()(batch)["kind"])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"rank": 0}, ConfigError, "rank must be a whole number"),
        ({"alpha": -1}, ConfigError, "alpha must be above 0"),
        ({"dropout": 2}, ConfigError, "dropout must be in"),
        ({"adapter_lr_scale": 0}, ConfigError, "adapter_lr_scale must be a number above 0"),
        ({"merge": "yes"}, ConfigError, "merge must be true or false"),
        ({"targets": []}, ConfigError, "targets must be a name or a list of names"),
        ({"stages": 3}, ConfigError, "stages must be a name or a list of names"),
        ({"stages": "s9"}, UnknownName, "s9"),
        ({"targets": "layer1.9"}, UnknownName, "has no layer 'layer1.9'"),
        ({"targets": "attention"}, ConfigError, "no layer for targets='attention'"),
        ({"ranks": 3}, UnknownName, "rank"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_before_anything_is_trained(settings, error, message):
    model = build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    with pytest.raises(error, match=message):
        zoo.fit(model, stripes(), method="lora", epochs=1, device="cpu", **settings)

    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
