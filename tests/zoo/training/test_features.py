"""Frozen features: computed once a picture, kept under what they depend on, and never a reason to stop."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import zoo
from zoo.contracts.features import Features, Want
from zoo.data import BytesSample, PictureSample, Sample, TensorSample
from zoo.errors import DataError
from zoo.training.features.store import FeatureStore, StoredFeatures, from_flat, to_flat

CPU = torch.device("cpu")


@pytest.fixture
def store(model, tmp_path):
    """Open the store of a model, anew each time."""

    def make(one=None) -> FeatureStore:
        return FeatureStore(one or model(), tmp_path / "features")

    return make


def rows(samples) -> list[dict[str, Sample]]:
    return [{"image": sample} for sample in samples]


def pooled(found: StoredFeatures) -> torch.Tensor:
    return torch.stack([found[row]["main/pooled"] for row in range(len(found))])


def test_stored_features_are_what_the_backbone_gives(model, store, draw):
    one = model()

    found = store(one).get(rows(draw(10)), device=CPU, batch_size=4)

    with torch.no_grad():
        expected = one.features(torch.stack([sample.open() for sample in draw(10)]))["main"].pooled
    torch.testing.assert_close(pooled(found), expected)


def test_a_second_run_computes_nothing(store, draw):
    first, second = store(), store()

    fresh = pooled(first.get(rows(draw(10)), device=CPU))
    again = pooled(second.get(rows(draw(10)), device=CPU))

    assert (first.computed, second.computed) == (10, 0)
    assert torch.equal(fresh, again)


@pytest.mark.slow
def test_a_second_fit_runs_no_backbone(model, table):
    settings = {"method": "feature_extraction", "epochs": 1, "device": "cpu"}
    first, one = model(), model(hidden=8)  # another head, another seed, another split: the same backbone
    one.backbones.load_state_dict(first.backbones.state_dict())
    zoo.fit(first, table(rows=16), **settings)
    passes = []
    one.backbones["main"].native.conv1.register_forward_hook(lambda *_: passes.append(1))

    zoo.fit(one, table(rows=16), **settings, seed=5, validation=0.5)

    assert passes == []


def test_added_pictures_alone_are_computed(store, draw):
    store().get(rows(draw(16)[:10]), device=CPU)
    second = store()

    found = second.get(rows(draw(16)), device=CPU)

    assert second.computed == 6
    assert torch.equal(pooled(found), pooled(store().get(rows(draw(16)), device=CPU)))


def test_the_order_of_the_pictures_is_kept_and_equal_ones_are_computed_once(store, draw):
    a, b, c = draw(3)
    one = store()

    found = pooled(one.get(rows([c, a, c, b]), device=CPU))

    assert one.computed == 3
    torch.testing.assert_close(found, pooled(store().get(rows([a, b, c]), device=CPU))[[2, 0, 2, 1]])


def test_selecting_rows_gives_those_rows(store, draw):
    found = store().get(rows(draw(5)), device=CPU)

    assert torch.equal(pooled(found.select([3, 1])), pooled(found)[[3, 1]])


def test_a_changed_weight_has_another_store(model, store, draw):
    changed = model()
    with torch.no_grad():
        changed.backbones["main"].native.conv1[0].weight.view(-1)[0] += 1e-3
    store().get(rows(draw(4)), device=CPU)
    other = store(changed)

    other.get(rows(draw(4)), device=CPU)

    assert other.folders["main"] != store().folders["main"]
    assert other.computed == 4


def test_a_changed_statistic_has_another_store(model, store):
    changed = model()
    changed.backbones["main"].native.bn1.running_mean[0] += 1

    assert store(changed).folders["main"] != store().folders["main"]


def test_changed_preprocessing_has_another_store(model, store):
    changed = model()
    stream = changed.spec.streams["main"]
    recipe = replace(stream.backbone.preprocessing, interpolation="nearest")
    spec = replace(stream, backbone=replace(stream.backbone, preprocessing=recipe))
    changed.spec = replace(changed.spec, streams={"main": spec})

    assert store(changed).folders["main"] != store().folders["main"]


def test_other_wants_have_another_store(model, store):
    changed = model()
    changed.wants = {"main": Want(pooled=True, maps=("s2",))}

    assert store(changed).folders["main"] != store().folders["main"]


def test_another_head_shares_the_store(model, store):
    one, other = model(), model(hidden=8)
    other.backbones.load_state_dict(one.backbones.state_dict())

    assert store(other).folders["main"] == store(one).folders["main"]


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "no digests"])
def test_a_damaged_shard_is_made_again(store, draw, damage, caplog):
    first = store()
    expected = pooled(first.get(rows(draw(6)), device=CPU))
    (shard,) = first.folders["main"].glob("*.safetensors")
    if damage == "no digests":
        from safetensors.torch import save_file

        save_file({"main/pooled": torch.zeros(6, 96)}, shard)
    else:
        whole = shard.read_bytes()
        shard.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "garbage": b"\xff" * 100}[damage])
    second, third = store(), store()

    found = pooled(second.get(rows(draw(6)), device=CPU))
    third.get(rows(draw(6)), device=CPU)

    assert (second.computed, third.computed) == (6, 0)
    assert torch.equal(found, expected)
    assert "cannot be read and is made again" in caplog.text


def test_a_damaged_shard_that_cannot_be_removed_is_no_reason_to_stop(store, draw, monkeypatch):
    first = store()
    first.get(rows(draw(4)), device=CPU)
    next(first.folders["main"].glob("*.safetensors")).write_bytes(b"")

    def refuse(self, missing_ok=False):
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "unlink", refuse)
    second = store()

    assert len(second.get(rows(draw(4)), device=CPU)) == 4
    assert second.computed == 4


def test_a_cache_that_is_a_file_is_no_reason_to_stop(model, table, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file"))

    history = zoo.fit(model(), table(rows=16), method="feature_extraction", epochs=1, device="cpu")

    assert history.cached_features
    assert "The features are not kept, since the cache cannot be written" in caplog.text


def test_a_full_disk_is_no_reason_to_stop_and_leaves_nothing_behind(store, draw, monkeypatch):
    from zoo.training.features import shards

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "save_file", full)
    one = store()

    assert len(one.get(rows(draw(4)), device=CPU)) == 4
    assert list(one.folders["main"].iterdir()) == []


def test_many_pictures_are_written_in_shards_of_bounded_size(store, draw, monkeypatch):
    from zoo.training.features import store as features

    monkeypatch.setattr(features, "SHARD_ROWS", 4)
    one = store()

    found = pooled(one.get(rows(draw(10)), device=CPU, batch_size=3))

    assert sorted(len(load_file(path)["digests"]) for path in one.folders["main"].iterdir()) == [2, 4, 4]
    assert torch.equal(found, pooled(store().get(rows(draw(10)), device=CPU)))


def test_two_writers_at_once_do_not_disturb_each_other(model, store, draw):
    models, found = [model(), model()], {}
    stores = [store(one) for one in models]
    barrier = threading.Barrier(2)

    def run(which):
        barrier.wait()
        samples = draw(24)[: 16 if which else 24]
        found[which] = pooled(stores[which].get(rows(samples), device=CPU, batch_size=4))

    threads = [threading.Thread(target=run, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = store()

    assert torch.allclose(found[0][:16], found[1])
    assert len(after.get(rows(draw(24)), device=CPU)) == 24
    assert after.computed == 0
    assert not list(after.folders["main"].glob(".*"))


def test_an_unreadable_picture_is_named_and_the_models_mode_is_kept(model, store):
    one = model().train()

    with pytest.raises(DataError, match="torn"):
        store(one).get(rows([BytesSample("torn", b"no picture")]), device=CPU)

    assert one.training


def test_a_text_is_no_picture(store):
    from zoo.data import DatasetSample

    with pytest.raises(DataError, match="row 0 is a text; the input 'image' takes pictures"):
        store().get(rows([DatasetSample("row 0", ["hello"], 0, str)]), device=CPU)


def test_the_same_picture_under_two_names_is_one(store):
    from PIL import Image

    picture = Image.new("RGB", (32, 32), "red")
    one = store()

    one.get(rows([PictureSample("a", picture), PictureSample("b", picture)]), device=CPU)

    assert one.computed == 1


def test_flat_features_are_read_back_as_they_were():
    g = torch.Generator().manual_seed(0)
    rgb = Features(
        pooled=torch.randn(3, 4, generator=g),
        tokens=torch.randn(3, 6, 5, generator=g),
        prefix=torch.randn(3, 1, 5, generator=g),
        maps={"s1": torch.randn(3, 2, 8, 8, generator=g), "s2": torch.randn(3, 4, 4, 4, generator=g)},
        mask=torch.tensor([[True] * 5 + [False]] * 3),
        embed=torch.randn(3, 2, generator=g),
        present=torch.tensor([True, False, True]),
        grid=(2, 3),
    )
    flow = Features(pooled=torch.randn(3, 7, generator=g))

    flat = to_flat({"rgb": rgb, "flow": flow})
    again = from_flat(flat)

    assert all(len(value) == 3 for value in flat.values())
    assert list(again) == ["rgb", "flow"]
    for name in ("pooled", "tokens", "prefix", "mask", "embed", "present"):
        assert torch.equal(getattr(again["rgb"], name), getattr(rgb, name))
    assert all(torch.equal(again["rgb"].maps[stage], value) for stage, value in rgb.maps.items())
    assert again["rgb"].grid == (2, 3)
    assert (again["flow"].tokens, again["flow"].maps, again["flow"].grid) == (None, {}, None)


def test_tokens_and_grid_pass_through_the_store(store):
    one = zoo.build("timm:test_vit", weights=None, seed=0)
    one.wants = {"main": Want(pooled=True, tokens=True, maps=("s1",))}
    picture = torch.randn(3, 160, 160, generator=torch.Generator().manual_seed(0))

    found = store(one).get(rows([TensorSample("one", picture)]), device=CPU)
    again = from_flat({key: value.unsqueeze(0) for key, value in found[0].items()})["main"]

    with torch.no_grad():
        expected = one.features(picture.unsqueeze(0))["main"]
    torch.testing.assert_close(again.tokens, expected.tokens)
    torch.testing.assert_close(again.maps["s1"], expected.maps["s1"])
    assert again.grid == expected.grid
