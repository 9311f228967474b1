"""Upgrading: nothing is written where nothing is old, and only a bundle that is well is written anew."""

import pytest
import torch

import zoo
from zoo.errors import BundleError


def old(make, bundle, version="0.0.1"):
    """Let a bundle say that an older zoo and torch saved it."""
    make.rewrite(bundle, lambda data: data["created"].update(by=f"zoo {version}", torch="2.10.0"))
    return bundle


def built(tmp_path, **provenance):
    model = zoo.build("timm:test_resnet", zoo.head("classifier", classes=["a", "b"]), weights=None, seed=0)
    model.provenance = dict(provenance)
    return model.save(tmp_path / "bundle")


def test_a_current_bundle_is_left_as_it_is(tmp_path):
    path = built(tmp_path)
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}

    found = zoo.upgrade(path, out=tmp_path / "other")

    assert found.current
    assert found.as_json()["current"]
    assert found.changed == {}
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before
    assert not (tmp_path / "other").exists()


def test_an_old_bundle_is_written_anew_with_its_parent_and_its_provenance(make, tmp_path):
    path = old(make, built(tmp_path, metrics={"a": 0.5}))
    before = zoo.inspect(path)
    x = torch.rand(1, 3, 160, 160)
    was = zoo.load(path)(x)

    found = zoo.upgrade(path)
    now = zoo.inspect(path)

    assert not found.current
    assert found.changed["zoo"] == ("zoo 0.0.1", f"zoo {zoo.__version__}")
    assert found.changed["torch"] == ("2.10.0", str(torch.__version__))
    assert (found.id, found.parent) == (now.id, before.id)
    assert now.provenance == {"metrics": {"a": 0.5}, "parents": [before.id]}
    assert now.created["torch"] == str(torch.__version__)
    assert zoo.verify(path, run=True).ok
    assert torch.equal(zoo.load(path)(x)["classifier"], was["classifier"])
    assert zoo.upgrade(path).current


def test_with_out_the_old_one_stays(make, tmp_path):
    path = old(make, built(tmp_path))
    before = zoo.inspect(path).id

    found = zoo.upgrade(path, out=tmp_path / "new")

    assert zoo.inspect(path).id == before
    assert zoo.inspect(tmp_path / "new").provenance == {"parents": [before]}
    assert found.path == str(tmp_path / "new")
    with pytest.raises(BundleError, match="exists"):
        zoo.upgrade(path, out=tmp_path / "new")


def test_the_version_of_a_library_is_taken_over(make, tmp_path):
    path = built(tmp_path)
    make.rewrite(path, lambda data: data["model"]["streams"]["main"]["backbone"].update(library_version="1.0.0"))

    found = zoo.upgrade(path)

    assert set(found.changed) == {"timm"}
    assert zoo.inspect(path).streams[0].library_version == found.changed["timm"][1]


def test_a_bundle_that_is_not_well_is_refused_and_untouched(make, tmp_path):
    path = old(make, built(tmp_path))
    file = path / "backbones/main/model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)

    with pytest.raises(BundleError, match="not well"):
        zoo.upgrade(path)

    assert file.read_bytes() == bytes(data)


def test_a_model_that_gives_another_output_now_is_refused(make, tmp_path):
    path = old(make, built(tmp_path))
    before = (path / "zoo.json").read_bytes()

    def shift(data):
        values = data["probe"]["outputs"]["classifier"]["values"]
        data["probe"]["outputs"]["classifier"]["values"] = [value + 1 for value in values]

    make.rewrite(path, shift)
    spoilt = (path / "zoo.json").read_bytes()

    with pytest.raises(BundleError, match="another output"):
        zoo.upgrade(path)

    assert (path / "zoo.json").read_bytes() == spoilt != before


@pytest.mark.slow
def test_an_ensemble_is_upgraded_with_its_members(make, tmp_path):
    model = zoo.load(built(tmp_path))
    path = zoo.save(zoo.ensemble({"a": model, "b": model}), tmp_path / "both")
    old(make, path)
    before = zoo.inspect(path).id

    found = zoo.upgrade(path)

    assert found.parent == before
    assert zoo.inspect(path).provenance["parents"] == [before]
    assert zoo.upgrade(path).current


@pytest.mark.slow
def test_a_delta_bundle_stays_one_on_the_same_base(make, tmp_path):
    whole = built(tmp_path)
    model = zoo.load(whole)
    with torch.no_grad():
        model.backbones["main"].native.bn1.bias += 1
    delta = old(make, model.save(tmp_path / "delta", kind="delta", base=whole))
    before, x = zoo.inspect(delta), torch.rand(1, 3, 160, 160)

    zoo.upgrade(delta, out=tmp_path / "deep" / "new")
    zoo.upgrade(delta)

    for path, place in ((delta, "../bundle"), (tmp_path / "deep" / "new", "../../bundle")):
        now = zoo.inspect(path)
        assert (now.kind, now.tensors, now.provenance) == ("delta", before.tensors, {"parents": [before.id]})
        assert {**now.bases["main"], "path": None} == {**before.bases["main"], "path": None}
        assert now.bases["main"]["path"] == place
        assert torch.equal(zoo.load(path)(x)["classifier"], model(x)["classifier"])
