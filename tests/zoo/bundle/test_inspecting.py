"""What a bundle says of itself is told without building anything, and text from it stays text."""

import json
import math
import os
import subprocess
import sys

import pytest
import safetensors
import torch

import zoo
from zoo.errors import BundleError


def test_everything_a_bundle_says_is_told(make, tmp_path):
    inner = [{"type": "classifier", "name": "pet", "classes": ["cat", "dog"]}, {"type": "regression", "name": "age"}]
    model = make.tiny(zoo.head("multi_task", name="all", heads=inner), own=True, metrics={"all": {"accuracy": 0.5}})
    model.freeze("s1")
    path = model.save(tmp_path / "bundle")

    found = zoo.inspect(path)

    assert (found.kind, found.path, found.format_version) == ("full", str(path), "1.0")
    assert found.id == zoo.verify(path).id
    assert found.created["torch"] == str(torch.__version__)
    assert found.bytes == sum(os.path.getsize(path / name) for name in found.files)
    (stream,) = found.streams
    assert (stream.name, stream.provider, stream.library, stream.size) == ("main", "tiny", "torch", (8, 8))
    assert stream.stages == ("stem", "s1", "post")
    assert stream.frozen == tuple(sorted(model.frozen()["main"]))
    assert [(head.name, head.type, head.within, head.classes) for head in found.heads] == [
        ("all", "multi_task", None, None),
        ("pet", "classifier", "all", ("cat", "dog")),
        ("age", "regression", "all", None),
    ]
    assert found.provenance == {"metrics": {"all": {"accuracy": 0.5}}}
    assert {one.name: (one.version, one.installed) for one in found.requires}["tiny"] == ("1.2.3", "1.2.3")
    assert found.probe is not None
    assert set(found.probe["outputs"]) == {"pet", "age"}


def test_the_tensors_are_those_that_safetensors_reads(make, tmp_path):
    path = make.tiny(own=True).save(tmp_path / "bundle")

    found = zoo.inspect(path)

    told = {(one.file, one.name): (one.dtype, one.shape) for one in found.tensors}
    theirs = {}
    for file in path.rglob("*.safetensors"):
        with safetensors.safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                tensor = opened.get_tensor(name)
                theirs[str(file.relative_to(path)), name] = str(tensor.dtype)[6:], tuple(tensor.shape)
    assert told == theirs
    assert all(one.bytes == 4 * math.prod(one.shape) for one in found.tensors)


def test_ties_layouts_and_licences_are_told(tmp_path):
    model = zoo.build("timm:test_resnet", zoo.head("classifier", classes=["a", "b"]), weights=None)
    model.to(memory_format=torch.channels_last)
    model.backbones["main"].native.layer1[0].bn1.weight = model.backbones["main"].native.layer1[0].bn2.weight

    found = zoo.inspect(model.save(tmp_path / "bundle"))

    assert len(found.tied) == 1
    assert found.memory_formats["channels_last"]
    assert found.licenses == {}


def test_a_plugin_that_is_not_installed_is_told_and_stops_nothing(make, bundle):
    make.rewrite(
        bundle, lambda data: data["requires"].append({"name": "gone", "distribution": "zoo-gone", "version": "2"})
    )

    found = {one.name: one for one in zoo.inspect(bundle).requires}

    assert found["gone"].installed is None
    assert found["tiny"].installed == "1.2.3"


@pytest.mark.parametrize("refer", [False, True])
def test_the_members_of_an_ensemble_are_inspected(make, tmp_path, refer):
    paths = {name: make.tiny(seed=n).save(tmp_path / name) for n, name in enumerate("ab")}
    ensemble = zoo.ensemble(paths, combine="weighted", weights=[0.25, 0.75])
    path = zoo.save(ensemble, tmp_path / "both", members="refer" if refer else "embed")

    found = zoo.inspect(path)

    assert found.kind == "ensemble"
    assert found.ensemble["combine"] == "weighted"
    assert [member.name for member in found.members] == ["a", "b"]
    assert [member.found.id for member in found.members] == [member.id for member in found.members]
    assert [member.path is None for member in found.members] == [not refer] * 2
    assert all(member.found.heads[0].classes == ("cat", "dog") for member in found.members)


def test_a_member_that_is_gone_is_a_problem_and_no_error(make, tmp_path):
    paths = {name: make.tiny(seed=n).save(tmp_path / name) for n, name in enumerate("ab")}
    path = zoo.save(zoo.ensemble(paths), tmp_path / "both", members="refer")
    (tmp_path / "b").rename(tmp_path / "away")

    found = zoo.inspect(path).members

    assert found[0].problem is None
    assert found[1].found is None
    assert "no bundle" in found[1].problem


def test_as_json_is_json_and_can_leave_the_tensors_out(bundle):
    found = zoo.inspect(bundle)

    whole, short = json.loads(json.dumps(found.as_json())), found.as_json(tensors=False)

    assert len(whole["tensors"]["list"]) == whole["tensors"]["count"] == len(found.tensors)
    assert "list" not in short["tensors"]
    assert short["bytes"] == found.bytes


def test_a_damaged_header_and_what_is_no_bundle_are_one_error(make, bundle, tmp_path):
    file = bundle / "backbones/main/model.safetensors"
    data = bytearray(file.read_bytes())
    data[9] ^= 255
    file.write_bytes(data)

    with pytest.raises(BundleError, match="damaged"):
        zoo.inspect(bundle)
    with pytest.raises(BundleError, match="no bundle"):
        zoo.inspect(tmp_path / "nothing")


@pytest.mark.slow
def test_neither_torch_nor_a_plugin_is_imported(bundle):
    code = f"""
import sys
import zoo
found = zoo.inspect({str(bundle)!r})
found.as_json()
print([name for name in ("torch", "numpy", "timm", "torchvision", "transformers", "zoo_timm") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_the_base_of_a_delta_bundle_is_told(make, tmp_path):
    model = make.tiny()
    whole = model.save(tmp_path / "whole")

    found = zoo.inspect(model.save(tmp_path / "delta", kind="delta", base=whole))

    assert found.kind == "delta"
    assert (found.bases["main"]["label"], found.bases["main"]["path"]) == (
        "tiny:tiny of the bundle 'whole'",
        "../whole",
    )
    assert {one.file for one in found.tensors} == {"heads/pet/model.safetensors"}
