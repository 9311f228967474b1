"""Bundles of every version of the format, loaded and probed for ever; and the schema that they follow."""

import importlib.util
import json
from pathlib import Path

import jsonschema
import pytest
import torch

import zoo
from zoo.bundle.folder import open_bundle
from zoo.bundle.manifest import FORMAT_VERSION

GOLDEN = Path(__file__).parents[2] / "golden"
BUNDLES = sorted(path.parent for path in GOLDEN.glob("*/*/zoo.json"))


@pytest.fixture(autouse=True)
def no_store(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_STORE", str(tmp_path / "store"))


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def name_of(bundle):
    return f"{bundle.parent.name}-{bundle.name}"


def test_this_version_of_the_format_has_golden_bundles_of_each_kind():
    kinds = {bundle.name for bundle in BUNDLES if bundle.parent.name == FORMAT_VERSION}
    assert kinds == {"full", "delta", "adapted", "ensemble"}


@pytest.mark.parametrize("bundle", BUNDLES, ids=name_of)
def test_a_golden_bundle_loads_verifies_and_says_what_it_said(bundle, maker):
    report = zoo.verify(bundle, run=True)
    assert report.problems == []
    assert report.probe
    expected = json.loads((bundle.parent / "expected.json").read_text())[bundle.name]
    got = maker.outputs(zoo.load(bundle))
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(torch.tensor(got[name]), torch.tensor(values), rtol=1e-4, atol=1e-5)


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
