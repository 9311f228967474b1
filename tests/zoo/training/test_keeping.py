"""What a run keeps of frozen stages: several views, reduced precision, prefixes; bounded, checked, never stale."""

import logging
import os
from dataclasses import replace

import pytest
import torch

import zoo
from zoo.data import PictureSample, TensorSample
from zoo.errors import ConfigError
from zoo.training import datasets
from zoo.training.features import evicting
from zoo.training.features.evicting import cache_limit, hold, make_room
from zoo.training.features.passes import PrefixPass, WholePass
from zoo.training.features.prefixes import find_prefix
from zoo.training.features.replay import Prefix
from zoo.training.features.store import FeatureStore

CPU = torch.device("cpu")
PARTIAL = {"method": "fine_tuning", "freeze": "s2", "epochs": 2, "batch_size": 8, "device": "cpu", "seed": 1}


@pytest.fixture
def photos(table):
    """Make a table of Pillow pictures, which can be varied."""

    def make(count):
        from PIL import Image

        drawn = table(rows=count).inputs["image"]
        arrays = [(one.open().permute(1, 2, 0) * 40 + 100).clamp(0, 255).byte().numpy() for one in drawn]
        pictures = tuple(PictureSample(str(n), Image.fromarray(array)) for n, array in enumerate(arrays))
        return replace(table(rows=count), inputs={"image": pictures})

    return make


def rows(samples):
    return [{"image": sample} for sample in samples]


@pytest.fixture
def prefix_pass(model, draw):
    def make(one=None, **more):
        one = one or model()
        images = torch.stack([sample.open() for sample in draw(4)])
        prefix = find_prefix(one, "main", ("stem", "s1"), images)
        return one, PrefixPass(one, {"main": prefix}, **more)

    return make


# --- runs on a prefix


@pytest.mark.slow
def test_training_above_a_kept_prefix_is_training_of_the_whole(model, table, state, monkeypatch):
    kept, live = model(), model()
    first = zoo.fit(kept, table(rows=16), **PARTIAL)
    monkeypatch.setattr(datasets, "_through", lambda *_, **__: None)
    second = zoo.fit(live, table(rows=16), **PARTIAL)

    assert (first.cached_prefix, second.cached_prefix) == ({"main": ["stem", "s1", "s2"]}, {})
    for key, value in state(kept).items():
        torch.testing.assert_close(value, live.state_dict()[key], rtol=1e-4, atol=1e-4)
    assert [row.train_loss for row in first.epochs] == pytest.approx([r.train_loss for r in second.epochs], rel=1e-3)


@pytest.mark.slow
def test_a_second_run_with_other_heads_runs_no_frozen_stage(model, table):
    zoo.fit(model(), table(rows=16), **PARTIAL)
    other, ran = model(hidden=4), []
    other.backbones["main"].native.layer1[0].register_forward_hook(lambda _, given, out: ran.append(len(out)))

    zoo.fit(other, table(rows=16), **{**PARTIAL, "seed": 5})

    assert 0 < sum(ran) <= 4 * datasets.TRIED  # the trial, and no row of the run


@pytest.mark.slow
def test_what_would_not_fit_runs_live_and_says_so(model, table, monkeypatch, caplog):
    monkeypatch.setenv("ZOO_CACHE_LIMIT", "1KB")
    caplog.set_level(logging.INFO, "zoo")

    history = zoo.fit(model(), table(rows=16), **PARTIAL)

    assert history.cached_prefix == {}
    assert "run live in each epoch: what they give would take" in caplog.text


# --- views


@pytest.mark.slow
def test_cached_views_are_those_that_a_live_run_sees(model, photos, state):
    settings = {
        "method": "feature_extraction", "augmentation": "light", "epochs": 3, "batch_size": 8, "device": "cpu",
    }  # fmt: skip
    kept, live = model(), model()
    first = zoo.fit(kept, photos(16), cached_views=3, **settings)
    second = zoo.fit(live, photos(16), **settings)

    assert (first.cached_features, second.cached_features) == (True, False)
    for key, value in state(kept, "heads.").items():
        torch.testing.assert_close(value, live.state_dict()[key], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_epochs_go_round_the_cached_views(model, photos):
    one = model()
    run = {"method": "feature_extraction", "augmentation": "light", "cached_views": 2, "epochs": 1, "device": "cpu"}
    seen = []
    hook = one.heads["kind"].register_forward_pre_hook(lambda _, given: seen.append(given[0]["main"].pooled.clone()))
    zoo.fit(one, photos(12), **{**run, "epochs": 4, "validation": 0, "batch_size": 12, "seed": 3})
    hook.remove()

    sums = [tuple(sorted(round(value, 3) for value in batch.sum(1).tolist())) for batch in seen if len(batch) == 12]
    assert sums[0] == sums[2]
    assert sums[1] == sums[3]
    assert sums[0] != sums[1]


# --- precision


def test_features_in_bf16_are_near_those_in_fp32_and_the_difference_is_told(model, table):
    history = zoo.fit(
        model(), table(rows=16), method="feature_extraction", epochs=1, device="cpu", feature_precision="bf16"
    )

    assert 0 < history.feature_difference < 0.1


@pytest.mark.slow
def test_a_prefix_in_bf16_trains_what_is_above_in_fp32(model, table):
    one = model()

    history = zoo.fit(one, table(rows=16), **PARTIAL, feature_precision="bf16")

    assert history.cached_prefix["main"] == ["stem", "s1", "s2"]
    assert 0 < history.feature_difference < 0.1
    assert {p.dtype for p in one.parameters()} == {torch.float32}


def test_a_processor_without_bf16_is_refused(model, table, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)

    with pytest.raises(ConfigError, match="needs a processor that computes in bfloat16"):
        zoo.fit(model(), table(rows=16), method="feature_extraction", feature_precision="bf16", device="cpu")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"cached_views": 2}, "give an augmentation, too"),
        ({"cached_views": 0, "augmentation": "light"}, "whole number, 1 or more"),
        ({"cached_views": 2, "augmentation": "light"}, "this method trains all"),
        ({"feature_precision": "bf16"}, "this method trains all"),
        ({"feature_precision": "fp8"}, "must be fp32 or bf16"),
        ({"solver": "adam"}, "must be sgd or lbfgs"),
    ],
)
def test_settings_with_nothing_to_act_on_are_refused(model, table, settings, reason):
    with pytest.raises(ConfigError, match=reason):
        zoo.fit(model(), table(rows=16), method="fine_tuning", device="cpu", **settings)


# --- keys: nothing stale is ever served


def change_weight(one, tmp_path):
    with torch.no_grad():
        weight = one.backbones["main"].native.conv1[0].weight.view(-1).view(torch.int32)
        weight[0] ^= 1  # the least bit there is


def change_statistic(one, tmp_path):
    one.backbones["main"].native.bn1.running_var[0] += 1


def change_entry(one, **changes):
    stream = one.spec.streams["main"]
    made = replace(stream, backbone=replace(stream.backbone, **changes))
    one.spec = replace(one.spec, streams={"main": made})


def change_preprocessing(one, tmp_path):
    recipe = one.spec.streams["main"].backbone.preprocessing
    change_entry(one, preprocessing=replace(recipe, size=(64, 64)))


def change_version(one, tmp_path):
    change_entry(one, library_version="0.0.1")


@pytest.mark.parametrize("change", [change_weight, change_statistic, change_preprocessing, change_version])
@pytest.mark.parametrize("whole", [True, False])
def test_each_thing_that_features_depend_on_has_them_computed_anew(model, draw, prefix_pass, tmp_path, change, whole):
    one, through = prefix_pass()
    through = WholePass(one) if whole else through
    first = FeatureStore(one, tmp_path, through=through)
    first.get(rows(draw(4)), device=CPU)
    again = FeatureStore(one, tmp_path, through=through)
    again.get(rows(draw(4)), device=CPU)
    change(one, tmp_path)
    changed = FeatureStore(one, tmp_path, through=through)
    changed.get(rows(draw(4)), device=CPU)

    assert (first.computed, again.computed, changed.computed) == (4, 0, 4)


def test_samples_views_precision_and_device_have_features_of_their_own(model, draw, tmp_path):
    one, samples = model(), draw(4)

    def computed(given=samples, marks=None, device="cpu", views="", *, lowered=False):
        store = FeatureStore(one, tmp_path, through=WholePass(one, lowered=lowered), device=device, views=views)
        store.get(rows(given), device=CPU, marks=marks)
        return store.computed

    picture = samples[0].open().clone()
    picture.view(-1).view(torch.int32)[0] ^= 1
    other = [TensorSample("other", picture), *samples[1:]]

    assert computed() == 4
    assert computed() == 0
    assert computed(other) == 1
    assert computed(marks=["1", "2", "3", "4"]) == 4
    assert computed(marks=["1", "2", "3", "5"]) == 1
    assert computed(views="flip") == 4
    assert computed(lowered=True) == 4
    assert computed(device="cuda") == 4
    assert computed() == 0


def test_a_weight_above_the_prefix_changes_nothing_of_it(model, draw, prefix_pass, tmp_path):
    one, through = prefix_pass()
    first = FeatureStore(one, tmp_path, through=through)
    first.get(rows(draw(4)), device=CPU)
    with torch.no_grad():
        one.backbones["main"].native.layer4[0].conv1.weight.add_(1)
        one.backbones["main"].native.layer4[0].bn1.running_mean.add_(1)

    again = FeatureStore(one, tmp_path, through=through)
    again.get(rows(draw(4)), device=CPU)

    assert again.computed == 0


def test_one_flipped_bit_of_a_shard_is_found(model, draw, tmp_path):
    one = model()
    first = FeatureStore(one, tmp_path)
    expected = first.get(rows(draw(6)), device=CPU).whole("main/pooled")
    (shard,) = first.folders["main"].glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1
    shard.write_bytes(content)

    again = FeatureStore(one, tmp_path)
    found = again.get(rows(draw(6)), device=CPU).whole("main/pooled")

    assert again.computed == 6
    assert torch.equal(found["main/pooled"], expected["main/pooled"])


def test_a_batch_is_gathered_from_several_shards_in_order(model, draw, tmp_path):
    one = model()
    FeatureStore(one, tmp_path).get(rows(draw(12)[5:]), device=CPU)
    found = FeatureStore(one, tmp_path).get(rows(draw(12)), device=CPU)

    batch = found.batch([7, 0, 11, 3, 3])["main/pooled"]

    assert torch.equal(batch, torch.stack([found[row]["main/pooled"] for row in (7, 0, 11, 3, 3)]))


# --- the bound


def fill(root, name, size, used):
    (root / name).mkdir(parents=True)
    (root / name / "shard.safetensors").write_bytes(b"0" * size)
    (root / f"{name}.lock").write_bytes(b"")
    os.utime(root / f"{name}.lock", (used, used))
    return root / name


def test_what_was_not_used_for_longest_goes_first_and_never_what_is_in_use(tmp_path):
    old, middle, new = (fill(tmp_path, name, 100, used) for used, name in enumerate(("old", "middle", "new"), 1))

    make_room(tmp_path, {new}, limit=250)
    assert [one.exists() for one in (old, middle, new)] == [False, True, True]

    held = hold(middle)
    make_room(tmp_path, {new}, limit=50)
    assert [one.exists() for one in (middle, new)] == [True, True]

    del held
    make_room(tmp_path, {new}, limit=50)
    assert [one.exists() for one in (middle, new)] == [False, True]


def test_a_store_that_is_used_again_is_young_again(tmp_path):
    old, new = fill(tmp_path, "old", 100, 1), fill(tmp_path, "new", 100, 2)
    del new
    assert hold(old) is not None

    make_room(tmp_path, set(), limit=150)

    assert old.exists()
    assert not (tmp_path / "new").exists()


def test_a_run_keeps_all_features_below_the_limit(model, draw, tmp_path, monkeypatch):
    monkeypatch.setattr(evicting, "DAY", 0.0)
    first = FeatureStore(model(), tmp_path)
    first.get(rows(draw(4)), device=CPU)
    size = sum(file.stat().st_size for file in first.folders["main"].iterdir())
    monkeypatch.setenv("ZOO_CACHE_LIMIT", str(int(size * 1.5)))
    other = model()
    change_weight(other, tmp_path)
    second = FeatureStore(other, tmp_path)

    found = second.get(rows(draw(4)), device=CPU)

    assert not first.folders["main"].exists()
    assert len(found.whole("main/pooled")["main/pooled"]) == 4


@pytest.mark.parametrize(("text", "size"), [("500MB", 5 * 10**8), ("20 gb", 2 * 10**10), ("7", 7), ("1.5KB", 1500)])
def test_the_limit_is_a_number_of_bytes(monkeypatch, text, size):
    monkeypatch.setenv("ZOO_CACHE_LIMIT", text)

    assert cache_limit() == size


def test_a_limit_that_is_none_is_refused_before_anything_runs(model, table, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE_LIMIT", "much")

    with pytest.raises(ConfigError, match="must be a number of bytes such as 500MB"):
        zoo.fit(model(), table(rows=16), method="feature_extraction", epochs=1, device="cpu")


def test_the_prefix_of_a_run_is_a_prefix(prefix_pass):
    _, through = prefix_pass()

    assert isinstance(through.prefixes["main"], Prefix)
    assert through.full().key("main")["precision"] == "fp32"
