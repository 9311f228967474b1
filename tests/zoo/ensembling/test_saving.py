"""Ensembles as bundles: members inside or referred to, checked to the last bit."""

import json
import shutil

import pytest
import torch

import zoo
from zoo.errors import BundleError, ConfigError


@pytest.fixture
def models(member):
    return {"small": member("timm:test_resnet", seed=0), "large": member("timm:test_vit", seed=1)}


@pytest.fixture
def folders(models, tmp_path):
    return {name: model.save(tmp_path / "members" / name) for name, model in models.items()}


@pytest.mark.slow
def test_an_ensemble_comes_back_as_it_was_saved(models, pictures, tmp_path):
    made = zoo.ensemble(models, "weighted", weights=[1, 3], tta="flip")
    made.provenance["note"] = "two"

    path = made.save(tmp_path / "both")
    loaded = zoo.load(path)

    assert isinstance(loaded, zoo.Ensemble)
    assert loaded.predict(pictures) == made.predict(pictures)
    assert loaded.spec.combine == "weighted"
    assert list(loaded.members) == ["small", "large"]
    assert loaded.provenance == {"note": "two"}
    assert zoo.verify(path, run=True).ok
    assert set(zoo.verify(path, run=True).probe) == {f"{m}/{t}" for m in models for t in ("age", "pet")}


@pytest.mark.slow
def test_each_member_inside_is_a_bundle_of_its_own(models, pictures, tmp_path):
    path = zoo.ensemble(models).save(tmp_path / "both")

    assert zoo.load(path / "members" / "large").predict(pictures) == models["large"].predict(pictures)
    assert zoo.verify(path / "members" / "large").ok


@pytest.mark.slow
@pytest.mark.parametrize("combine", ["stacking", "greedy"])
def test_what_was_fitted_is_kept(models, pictures, table, tmp_path, combine):
    pair = {
        name: zoo.build("timm:test_resnet", list(m.spec.heads), weights=None, seed=n)
        for n, (name, m) in enumerate(models.items())
    }
    made = zoo.ensemble(pair, combine).fit(table())

    loaded = zoo.load(made.save(tmp_path / "both"))

    assert loaded.predict(pictures) == made.predict(pictures)
    assert loaded.provenance == made.provenance
    for name, stack in made.stacks.items():
        assert torch.equal(stack.weight, loaded.stacks[name].weight)
        assert loaded.stacks[name].weight.dtype == torch.float64


@pytest.mark.slow
def test_it_replaces_a_bundle_only_when_asked(models, tmp_path):
    path = models["small"].save(tmp_path / "one")

    with pytest.raises(BundleError, match="overwrite=True"):
        zoo.ensemble(models).save(path)
    zoo.ensemble(models).save(path, overwrite=True)
    assert isinstance(zoo.load(path), zoo.Ensemble)
    models["small"].save(path, overwrite=True)

    assert isinstance(zoo.load(path), zoo.Model)
    assert not (path / "members").exists()


def test_a_tampered_member_is_refused_and_named(models, tmp_path):
    path = zoo.ensemble(models).save(tmp_path / "both")
    file = path / "members" / "small" / "heads" / "pet" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)

    with pytest.raises(BundleError, match=r"small/heads/pet/model\.safetensors is not what was saved"):
        zoo.load(path)
    assert len(zoo.verify(path).problems) == 1


@pytest.mark.slow
def test_a_member_that_was_exchanged_for_another_bundle_is_refused(models, member, tmp_path):
    path = zoo.ensemble(models).save(tmp_path / "both")
    shutil.rmtree(path / "members" / "small")
    member(seed=7).save(path / "members" / "small")

    with pytest.raises(BundleError, match="not the bundle that the ensemble was saved with"):
        zoo.load(path)
    assert not zoo.verify(path).ok


def test_a_missing_member_and_a_strange_file_are_named(models, tmp_path):
    path = zoo.ensemble(models).save(tmp_path / "both")
    (path / "members" / "small" / "more.txt").write_text("?")
    assert [("more.txt" in problem) for problem in zoo.verify(path).problems] == [True]
    shutil.rmtree(path / "members" / "large")

    with pytest.raises(BundleError, match="members/large cannot be read as a bundle"):
        zoo.load(path)


def test_an_edited_manifest_is_refused(models, tmp_path):
    path = zoo.ensemble(models).save(tmp_path / "both")
    told = json.loads((path / "zoo.json").read_text())
    told["ensemble"]["combine"] = "vote"
    (path / "zoo.json").write_text(json.dumps(told, sort_keys=True, separators=(",", ":")))

    with pytest.raises(BundleError, match="checksum differs"):
        zoo.load(path)


@pytest.mark.slow
def test_members_may_be_referred_to(folders, pictures, tmp_path):
    made = zoo.ensemble(folders)

    path = made.save(tmp_path / "both", members="refer")

    assert not (path / "members").exists()
    assert str(tmp_path) not in (path / "zoo.json").read_text()
    assert zoo.load(path).predict(pictures) == made.predict(pictures)
    assert zoo.verify(path, run=True).ok


@pytest.mark.slow
def test_a_folder_that_moved_as_a_whole_still_finds_its_members(folders, pictures, tmp_path):
    made = zoo.ensemble(folders)
    made.save(tmp_path / "members" / "both", members="refer")
    (tmp_path / "members").rename(tmp_path / "elsewhere")

    assert zoo.load(tmp_path / "elsewhere" / "both").predict(pictures) == made.predict(pictures)


@pytest.mark.slow
def test_a_member_that_moved_is_found_where_the_caller_says(folders, pictures, tmp_path):
    made = zoo.ensemble(folders)
    path = made.save(tmp_path / "both", members="refer")
    folders["small"].rename(tmp_path / "moved")

    with pytest.raises(BundleError, match=r"'small' .* cannot be had"):
        zoo.load(path)
    assert zoo.load(path, members={"small": tmp_path / "moved"}).predict(pictures) == made.predict(pictures)
    with pytest.raises(BundleError, match="refers to no member 'tiny'; those that it refers to: small, large"):
        zoo.load(path, members={"tiny": tmp_path})


@pytest.mark.slow
def test_a_referred_member_that_is_another_now_is_refused(folders, models, member, tmp_path):
    path = zoo.ensemble(folders).save(tmp_path / "both", members="refer")
    member(seed=5).save(folders["small"], overwrite=True)

    with pytest.raises(BundleError, match="not the bundle that the ensemble was saved with: its id must be"):
        zoo.load(path)
    assert "small" in zoo.verify(path).problems[0]


@pytest.mark.slow
def test_a_member_that_is_not_its_bundle_cannot_be_referred_to(folders, models, tmp_path):
    with pytest.raises(BundleError, match="'small' does not come from a bundle"):
        zoo.ensemble(models).save(tmp_path / "both", members="refer")
    made = zoo.ensemble(folders)
    with torch.no_grad():
        next(made.members["large"].parameters()).add_(1)
    with pytest.raises(BundleError, match="'large' is not what is in"):
        made.save(tmp_path / "both", members="refer")
    assert not (tmp_path / "both").exists()


def test_an_ensemble_is_no_member(models, tmp_path):
    path = zoo.ensemble(models).save(tmp_path / "both")

    with pytest.raises(ConfigError, match="'member1' is an ensemble"):
        zoo.ensemble([path])


def test_settings_of_saving_are_checked(models, tmp_path):
    with pytest.raises(ConfigError, match="is for ensembles"):
        zoo.save(models["small"], tmp_path / "one", members="embed")
    with pytest.raises(ConfigError, match="'embed' or 'refer'"):
        zoo.ensemble(models).save(tmp_path / "one", members="link")
    with pytest.raises(BundleError, match="takes no members"):
        zoo.load(models["small"].save(tmp_path / "one"), members={"a": tmp_path})


def test_the_card_lists_the_members(models, tmp_path):
    text = (zoo.ensemble(models).save(tmp_path / "both") / "README.md").read_text()

    assert "| small |" in text
    assert "combined by: mean" in text


def test_own_modules_of_members_are_given_by_member_and_stream(tmp_path, member):
    def network() -> torch.nn.Module:
        torch.manual_seed(0)
        layers = (torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        return torch.nn.Sequential(*layers)

    pet = zoo.head("classifier", name="pet", classes=["a", "b"])
    own = zoo.build(zoo.wrap(network(), inputs=torch.randn(2, 3, 32, 32)), pet, seed=0)
    made = zoo.ensemble({"own": own, "other": member("timm:test_resnet", pet)})
    path = made.save(tmp_path / "both")
    x = torch.randn(2, 3, 32, 32)

    loaded = zoo.load(path, modules={"own.main": network})

    with torch.no_grad():
        assert torch.equal(loaded(x)["pet"], made(x)["pet"])
    with pytest.raises(BundleError, match=r"must be 'member\.stream'"):
        zoo.load(path, modules={"main": network})
    with pytest.raises(BundleError, match="needs code"):
        zoo.load(path)
