"""Bundles of every version of the format, loaded and probed for ever; and the schema that they follow."""

import importlib.util
import json
from pathlib import Path

import jsonschema
import pytest
import torch

import zoo
from zoo.bundle.basing import add
from zoo.bundle.checkpoints import read_checkpoint
from zoo.bundle.folder import open_bundle
from zoo.bundle.manifest import FORMAT_VERSION, PRUNED, QUANTIZED
from zoo.bundle.store import Store
from zoo.errors import BundleError

GOLDEN = Path(__file__).parents[2] / "golden"
BUNDLES = sorted(path.parent for path in GOLDEN.glob("*/*/zoo.json"))


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_STORE", str(tmp_path / "store"))


@pytest.fixture
def based():
    """Put what the checkpoint is based on into the store, where it was when its run was under way."""
    return add(GOLDEN / "1.0" / "full", Store())


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def name_of(bundle):
    return f"{bundle.parent.name}-{bundle.name}"


def test_every_version_of_the_format_has_golden_bundles_of_each_kind(maker):
    held = {bundle.relative_to(GOLDEN).as_posix() for bundle in BUNDLES}
    kinds = {json.loads((bundle / "zoo.json").read_bytes())["kind"] for bundle in BUNDLES}

    assert held == set(maker.MADE)
    assert kinds == {"full", "delta", "ensemble", "checkpoint"}
    assert {bundle.parent.name for bundle in BUNDLES} >= {FORMAT_VERSION, PRUNED, QUANTIZED}


@pytest.mark.parametrize("bundle", BUNDLES, ids=name_of)
def test_a_golden_bundle_is_in_the_folder_of_its_format(bundle):
    manifest = json.loads((bundle / "zoo.json").read_bytes())

    assert manifest["format_version"] == manifest["min_reader"] == bundle.parent.name


@pytest.mark.parametrize("bundle", BUNDLES, ids=name_of)
def test_a_golden_bundle_loads_verifies_and_says_what_it_said(bundle, maker, based):
    report = zoo.verify(bundle, run=True)
    assert report.problems == []
    assert bool(report.probe) is (report.kind != "checkpoint")
    expected = json.loads((bundle.parent / "expected.json").read_text())[bundle.name]
    got = maker.outputs(zoo.load(bundle))
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(torch.tensor(got[name]), torch.tensor(values), rtol=1e-4, atol=1e-5)


def same(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def test_the_golden_state_of_methods_is_what_it_was(maker):
    found, expected = zoo.load(GOLDEN / "1.0" / "stateful").state, maker.state()

    assert found.keys() == expected.keys()
    assert all(same(found[name], kept) for name, kept in expected.items())


def test_the_golden_pruned_bundle_is_narrower_than_its_library_builds_it():
    model = zoo.load(GOLDEN / "1.1" / "pruned")
    backbone = model.spec.streams["main"].backbone
    whole = zoo.build("timm:test_efficientnet", weights=None).spec.streams["main"].backbone

    assert backbone.widths
    assert backbone.parameters == sum(p.numel() for p in model.backbones.parameters()) < whole.parameters / 2


def test_the_golden_checkpoint_has_what_its_run_needs_to_go_on(based, maker):
    path = GOLDEN / "1.0" / "checkpoint"
    found = read_checkpoint(path)
    model = zoo.load(path)

    assert (found.training.step, found.training.steps, found.training.finished) == (1, 2, False)
    assert found.training.run["method"] == maker.TRAINING["method"]
    assert {"optimizer", "schedule", "generators", "history", "loss"} <= found.state.keys()
    shapes = {tuple(tensor.shape) for file in found.tensors.values() for tensor in file.values()}
    moments = found.state["optimizer"]["state"].values()
    assert moments
    assert {tuple(one["exp_avg"].shape) for one in moments} <= shapes
    assert all(float(one["step"]) == 1 for one in moments)
    trained = found.tensors["backbones/main/delta.safetensors"]
    assert all(torch.equal(tensor, model.backbones["main"].native.state_dict()[n]) for n, tensor in trained.items())


def test_the_golden_checkpoint_says_what_it_is_based_on_where_that_is_not_there():
    with pytest.raises(BundleError, match=r"timm:test_efficientnet\S* before a run with the state digest zsd1:blake3:"):
        zoo.load(GOLDEN / "1.0" / "checkpoint")


@pytest.mark.slow
@pytest.mark.parametrize("bundle", BUNDLES, ids=name_of)
def test_a_golden_manifest_follows_the_schema_that_ships(bundle):
    from zoo.bundle.schema import manifest_schema

    schema = manifest_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    data = json.loads((bundle / "zoo.json").read_bytes())
    jsonschema.validate(data, schema)
    for spoil in (lambda d: d.pop("files"), lambda d: d.update(kind="x"), lambda d: d.update(more=1)):
        other = json.loads((bundle / "zoo.json").read_bytes())
        spoil(other)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(other, schema)


def test_the_schema_is_what_the_command_prints_and_the_page_has(capsys):
    from zoo.bundle.schema import manifest_schema
    from zoo.cli import main

    assert main(["schema", "bundle"]) == 0
    assert json.loads(capsys.readouterr().out) == manifest_schema()
    page = Path(__file__).parents[3] / "docs/reference/zoo.schema.json"
    assert json.loads(page.read_text()) == manifest_schema()


def test_the_state_digest_on_the_format_page_is_what_is_computed_without_torch():
    """Follow the page's own recipe on a golden bundle: a reader in another language needs no more."""
    import struct

    from blake3 import blake3

    bundle = GOLDEN / "1.0" / "full"
    manifest, identity = open_bundle(bundle, lambda folder: folder.manifest())
    data = json.loads((bundle / "zoo.json").read_bytes())
    assert blake3((bundle / "zoo.json").read_bytes()).hexdigest() == identity
    checksum = data.pop("checksum")
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    assert checksum == "blake3:" + blake3(text.encode("ascii")).hexdigest()
    names = {"F32": "float32", "I64": "int64"}
    for part in manifest.components:
        raw = (bundle / part.path / "model.safetensors").read_bytes()
        [length] = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + length])
        header.pop("__metadata__", None)
        whole = blake3()
        for name in sorted(header):
            entry = header[name]
            start, stop = (8 + length + at for at in entry["data_offsets"])
            record = [name, names[entry["dtype"]], entry["shape"], blake3(raw[start:stop]).hexdigest()]
            whole.update(json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n")
        assert part.state_digest == "zsd1:blake3:" + whole.hexdigest()


def test_a_library_of_another_version_is_named_with_both(monkeypatch):
    import timm

    from zoo.bundle import probing

    bundle = GOLDEN / "1.0" / "full"
    true = probing.installed
    monkeypatch.setattr(probing, "installed", lambda library: "9.9.9" if library == "timm" else true(library))
    saved = json.loads((bundle / "zoo.json").read_bytes())["model"]["streams"]["main"]["backbone"]["library_version"]
    report = zoo.verify(bundle, run=True)
    assert report.ok
    assert report.skew["timm"] == (saved, "9.9.9")

    forward = timm.models.efficientnet.EfficientNet.forward_features
    monkeypatch.setattr(timm.models.efficientnet.EfficientNet, "forward_features", lambda self, x: forward(self, -x))
    report = zoo.verify(bundle, run=True)  # as if the library had changed its meaning
    assert [p for p in report.problems if "another output" in p and f"timm {saved} then, 9.9.9 now" in p]


def test_a_change_of_meaning_without_a_change_of_version_is_told_too(monkeypatch):
    import timm

    from zoo.bundle import probing

    monkeypatch.setattr(probing, "skew_of", lambda manifests: {})
    monkeypatch.setattr(
        timm.models.efficientnet.EfficientNet, "forward_features", lambda self, x: x.new_zeros(2, 256, 5, 5)
    )
    report = zoo.verify(GOLDEN / "1.0" / "full", run=True)
    assert all("All libraries are of the versions" in problem for problem in report.problems)
    assert not report.ok
