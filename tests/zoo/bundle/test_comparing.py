"""What differs between two bundles: exactly what was changed, in its section, and with its size."""

import json
import math
from dataclasses import replace

import pytest
import torch

import zoo
from zoo.bundle.comparing import Change
from zoo.bundle.states import stage_of
from zoo.errors import BundleError


@pytest.fixture
def pair(make, tmp_path):
    """Save a tiny model, change a copy of it, save that, and compare."""

    def compare(change=lambda model: None, edit=None, **provenance):
        one, two = make.tiny(**provenance), make.tiny(**provenance)
        change(two)
        paths = one.save(tmp_path / "one"), two.save(tmp_path / "two")
        if edit is not None:
            make.rewrite(paths[1], edit)
        return zoo.diff(*paths)

    return compare


def sections(found):
    names = ("spec", "labels", "preprocessing", "metrics", "provenance", "versions", "files")
    told = {name for name in names if getattr(found, name)}
    return told | ({"tensors"} if any(not row.same for row in found.tensors) else set())


def test_a_bundle_saved_twice_differs_in_nothing(pair):
    found = pair(metrics={"a": 1})

    assert found.equal
    assert found.ids[0] != "" != found.ids[1]
    assert sections(found) == set()
    assert sum(row.equal for row in found.tensors) == 4


def test_a_changed_tensor_is_counted_in_its_stage_with_its_size(pair):
    def change(model):
        with torch.no_grad():
            model.backbones["main"].native[0].weight[0, 0, 0, 0] += 0.5

    found = pair(change)

    weight = zoo.load(found.a).backbones["main"].native[0].weight.detach().double()
    (row,) = [row for row in found.tensors if not row.same]
    assert (row.part, row.stage, row.module) == ("backbones/main", "s1", None)
    assert (row.equal, row.changed, row.added, row.removed, row.reshaped) == (1, 1, 0, 0, 0)
    assert row.absolute == pytest.approx(0.5, abs=1e-6)
    assert row.relative == pytest.approx(0.5 / float(weight.norm()), rel=1e-5)
    assert sections(found) == {"tensors"}
    assert not found.equal


def test_a_value_that_is_no_number_is_an_infinite_change_and_none_in_json(pair):
    def change(model):
        with torch.no_grad():
            model.heads["pet"].layers[0].bias[0] = math.nan

    found = pair(change)

    (row,) = [row for row in found.tensors if not row.same]
    assert row.absolute == row.relative == math.inf
    assert json.loads(json.dumps(found.as_json()))["tensors"][-1]["absolute"] is None


def test_tensors_of_one_side_are_added_and_removed(make, tmp_path):
    one, two = make.tiny().save(tmp_path / "one"), make.tiny(own=True).save(tmp_path / "two")

    there, back = zoo.diff(one, two), zoo.diff(two, one)

    assert sum(row.added for row in there.tensors) == sum(row.removed for row in back.tensors) == 2
    assert sum(row.removed for row in there.tensors) == 0
    assert Change("streams.main.backbone.construction.own", False, True) in there.spec


def test_another_shape_is_a_change_without_a_number(make, tmp_path):
    heads = [zoo.head("classifier", name="pet", classes=names) for names in (["cat", "dog"], ["cat", "dog", "owl"])]
    paths = [make.tiny(head).save(tmp_path / str(n)) for n, head in enumerate(heads)]

    found = zoo.diff(*paths)

    (row,) = [row for row in found.tensors if row.part == "heads/pet"]
    assert (row.stage, row.module) == (None, "layers")
    assert (row.changed, row.reshaped, row.absolute) == (2, 2, None)
    assert found.labels[0].added == ("owl",)


def test_labels_are_added_removed_and_moved(make, tmp_path):
    heads = [zoo.head("classifier", name="pet", classes=names) for names in (["a", "b", "c"], ["c", "b", "d"])]
    paths = [make.tiny(head).save(tmp_path / str(n)) for n, head in enumerate(heads)]

    (label,) = zoo.diff(*paths).labels

    assert (label.head, label.added, label.removed, dict(label.moved)) == ("pet", ("d",), ("a",), {"c": (2, 0)})


def test_every_kind_of_field_is_told_in_its_section_with_both_values(pair, make, tmp_path):
    one = make.tiny(metrics={"pet": {"accuracy": 0.5}}, note="old")
    two = make.tiny(metrics={"pet": {"accuracy": 0.75}}, note="new")
    stream = two.spec.streams["main"]
    recipe = zoo.Preprocessing(size=(8, 8), resize=None, channels=1, mean=(0.5,), std=(0.5,))
    backbone = replace(stream.backbone, library_version="3", preprocessing=recipe, license="mit")
    two.spec = replace(two.spec, streams={"main": replace(stream, backbone=backbone)})
    two.freeze("s1")

    found = zoo.diff(one.save(tmp_path / "one"), two.save(tmp_path / "two"))

    assert found.metrics == (Change("provenance.metrics.pet.accuracy", 0.5, 0.75),)
    assert found.provenance == (Change("provenance.note", "old", "new"),)
    assert found.versions == (Change("streams.main.backbone.library_version", "2", "3"),)
    assert [change.path for change in found.preprocessing] == ["streams.main.backbone.preprocessing"]
    assert {change.path for change in found.spec} == {
        "streams.main.backbone.license",
        "frozen.main",
        "licenses.main",
    }
    assert not found.labels


def test_versions_of_what_saved_a_bundle_differ(pair):
    def edit(data):
        data["created"] |= {"torch": "9.9", "python": "3.99"}
        data["requires"][-1]["version"] = "7"

    found = pair(edit=edit)

    assert {change.path for change in found.versions} == {"created.torch", "created.python", "requires.tiny"}
    assert sections(found) == {"versions"}


def test_a_file_of_the_library_that_differs_is_named(make, tmp_path):
    one = make.tiny().save(tmp_path / "one")
    two = make.copy(one, "two")
    make.rewrite(two, lambda data: data["files"]["backbones/main/words.txt"].update(size=5))

    assert [change.path for change in zoo.diff(one, two).files] == ["backbones/main/words.txt"]


def test_tied_tensors_count_under_every_name(tmp_path):
    def saved(name, *, tie):
        model = zoo.build("timm:test_resnet", zoo.head("classifier", classes=["a", "b"]), weights=None, seed=0)
        block = model.backbones["main"].native.layer1[0]
        own = torch.nn.Parameter(block.bn2.weight.detach().clone())
        block.bn1.weight = block.bn2.weight if tie else own
        return model.save(tmp_path / name)

    found = zoo.diff(saved("one", tie=False), saved("two", tie=True))

    assert [change.path for change in found.spec] == ["tied"]
    assert all(row.same for row in found.tensors)


@pytest.mark.parametrize("refer", [False, True])
def test_ensembles_are_compared_member_by_member(make, tmp_path, refer):
    paths = {name: make.tiny(seed=n).save(tmp_path / name) for n, name in enumerate("abc")}
    how = "refer" if refer else "embed"
    one = zoo.save(zoo.ensemble({n: paths[n] for n in "ab"}), tmp_path / "one", members=how)
    two = zoo.ensemble({"a": paths["a"], "b": paths["c"]}, combine="weighted", weights=[1, 3])
    found = zoo.diff(one, zoo.save(two, tmp_path / "two", members=how))

    assert found.members["a"].equal
    assert not found.members["b"].equal
    assert {row.part for row in found.members["b"].tensors if not row.same} == {"backbones/main", "heads/pet"}
    assert Change("ensemble.combine", "mean", "weighted") in found.spec
    assert not found.equal
    assert json.loads(json.dumps(found.as_json()))["members"]["a"]["equal"]


def test_a_model_and_an_ensemble_are_of_another_kind(make, tmp_path):
    path = make.tiny().save(tmp_path / "one")
    both = zoo.save(zoo.ensemble({"a": path, "b": path}), tmp_path / "both")

    assert Change("kind", "full", "ensemble") in zoo.diff(path, both).spec


def test_what_cannot_be_read_is_an_error(bundle, tmp_path):
    with pytest.raises(BundleError, match="no bundle"):
        zoo.diff(bundle, tmp_path / "nothing")


def test_reading_in_pieces_gives_what_reading_at_once_gives(pair, monkeypatch):
    def change(model):
        with torch.no_grad():
            model.backbones["main"].native[0].weight.mul_(2)

    whole = pair(change)
    monkeypatch.setattr("zoo.bundle.states._PIECE", 1)

    pieces = zoo.diff(whole.a, whole.b)

    assert [row.absolute for row in pieces.tensors] == pytest.approx([row.absolute for row in whole.tensors])
    assert pieces.tensors[0].relative == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
def test_a_stage_that_is_told_without_the_library_is_the_librarys(name):
    model = zoo.build(f"timm:{name}", weights=None)
    backbone = model.backbones["main"]

    told = {key: stage_of(key, backbone.spec) for key in backbone.native.state_dict()}
    known = {key: stage for key, stage in told.items() if stage is not None}

    assert known == {key: backbone.stage_of(key) for key in known}
    assert len(known) > len(told) / 2


def test_a_delta_bundle_is_compared_with_what_its_base_has(make, tmp_path):
    first = make.tiny()
    whole = first.save(tmp_path / "whole")
    with torch.no_grad():
        first.backbones["main"].native[0].bias += 1
    delta = first.save(tmp_path / "delta", kind="delta", base=whole)
    full = first.save(tmp_path / "full")

    changed, same = zoo.diff(whole, delta), zoo.diff(full, delta)

    (row,) = [row for row in changed.tensors if not row.same]
    assert (row.part, row.equal, row.changed, row.added, row.removed) == ("backbones/main", 1, 1, 0, 0)
    assert row.absolute == pytest.approx(1, abs=1e-6)
    assert all(row.same for row in same.tensors)
    assert {change.path for change in same.spec} == {"kind", "bases.main"}
    assert zoo.diff(delta, delta).equal
