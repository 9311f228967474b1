"""A bundle that is missing, cut, edited, hostile or too new is refused in one sentence; nothing else is raised."""

import json
import os
import random

import pytest
import torch

import zoo
from zoo.bundle.plain_json import parse
from zoo.errors import BundleError
from zoo.registry import registry


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def refused(path):
    """Say whether both load and verify refuse a bundle."""
    with pytest.raises(BundleError):
        zoo.load(path)
    report = zoo.verify(path)
    assert report.problems
    return not report.ok


def test_a_few_flips_are_seen_by_verify_and_the_file_is_named(bundle):
    dice = random.Random(1)
    for file in files_of(bundle):
        good = file.read_bytes()
        for _ in range(20):
            spoilt = bytearray(good)
            spoilt[dice.randrange(len(good))] ^= 1 << dice.randrange(8)
            file.write_bytes(spoilt)
            report = zoo.verify(bundle, run=True)
            assert not report.ok
            assert file.name in report.problems[0]
        file.write_bytes(good)
    assert zoo.verify(bundle).ok


def test_every_file_cut_at_any_of_many_lengths_is_refused(bundle):
    for file in files_of(bundle):
        good = file.read_bytes()
        for length in {0, len(good) - 1, *random.Random(2).choices(range(len(good)), k=15)}:
            file.write_bytes(good[:length])
            assert refused(bundle)
        file.write_bytes(good + b" ")
        assert refused(bundle)
        file.write_bytes(good)


def test_a_deleted_renamed_or_swapped_file_is_refused(bundle):
    for file in files_of(bundle):
        moved = file.rename(file.with_name("away"))
        assert refused(bundle)
        moved.rename(file)
    one, two = bundle / "heads/pet/model.safetensors", bundle / "backbones/main/model.safetensors"
    one.write_bytes(two.read_bytes())
    assert refused(bundle)


def test_an_extra_file_is_a_problem_for_verify_and_not_read_by_load(bundle):
    (bundle / "heads" / "evil.py").write_text("raise SystemExit")
    (bundle / "heads" / "link").symlink_to("/etc")

    report = zoo.verify(bundle)

    zoo.load(bundle)
    assert report.extra == ["heads/evil.py", "heads/link"]
    assert not report.ok
    assert "heads/evil.py" in report.problems[0]
    assert json.loads(json.dumps(report.as_json()))["extra"] == report.extra


def test_a_missing_bundle_is_named(tmp_path):
    for path in (tmp_path / "none", tmp_path / "none" / "deeper"):
        with pytest.raises(BundleError, match="There is no bundle at"):
            zoo.load(path)
        assert zoo.verify(path).id is None
    with pytest.raises(BundleError, match=r"has no zoo\.json"):
        zoo.load(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="cannot be read as a bundle"):
        zoo.load(tmp_path / "file")
    for path in ("", "a\0b", 3, None):
        with pytest.raises(BundleError, match="must be a str or a Path"):
            zoo.load(path)


@pytest.mark.parametrize(("key", "value"), [("format_version", "2.0"), ("min_reader", "1.3"), ("min_reader", "7.3")])
def test_a_newer_version_says_which_zoo_it_needs(bundle, make, key, value):
    def newer(data):
        data[key] = value
        data["created"]["by"] = "zoo 3.1.0"
        data["unheard_of"] = True

    make.rewrite(bundle, newer)

    with pytest.raises(BundleError, match=r"needs zoo >= 3\.1\.0"):
        zoo.load(bundle)
    assert refused(bundle)


def test_a_later_kind_is_named(bundle, make):
    make.rewrite(bundle, lambda data: data.update(kind="archive"))

    with pytest.raises(BundleError, match="the kind 'archive'"):
        zoo.load(bundle)


EDITS = {
    "unknown key": lambda data: data.update(extra=1),
    "unknown inner key": lambda data: data["created"].update(extra=1),
    "a text for a number": lambda data: data["files"]["README.md"].update(size="12"),
    "a negative size": lambda data: data["files"]["README.md"].update(size=-1),
    "a float": lambda data: data["files"]["README.md"].update(size=880.0),
    "a digest in capitals": lambda data: data["files"]["README.md"].update(blake3="A" * 64),
    "a missing key": lambda data: data.pop("model"),
    "no components": lambda data: data.update(components=[]),
    "one component twice": lambda data: data["components"].append(data["components"][0]),
    "a component elsewhere": lambda data: data["components"][0].update(path="heads/pet"),
    "a missing component file": lambda data: data["files"].pop("heads/pet/model.safetensors"),
    "a role": lambda data: data["components"][0].update(role="adapter"),
    "another head type": lambda data: data["model"]["heads"][0].update(type="regression"),
    "another provider": lambda data: data["model"]["streams"]["main"]["backbone"].update(provider="timm"),
    "other classes": lambda data: data["model"]["heads"][0]["config"].update(classes=["a", "b", "c"]),
    "a dotted path": lambda data: (
        data["model"]["heads"][0].update(type="os:system"),
        data["components"][1].update(type="os:system"),
    ),
    "an impossible setting": lambda data: data["model"]["heads"][0]["config"].update(dropout=7.0),
    "construction": lambda data: data["model"]["streams"]["main"]["backbone"].update(construction={}),
    "frozen of no stream": lambda data: data.update(frozen={"other": ["s1"]}),
    "frozen of no stage": lambda data: data.update(frozen={"main": ["s9"]}),
    "a tie of one": lambda data: data.update(tied=[["a:b"]]),
    "a tie to nothing": lambda data: data.update(tied=[["a:b", "heads/pet/model.safetensors:layers.0.weight"]]),
    "a tie of strangers": lambda data: data.update(tied=[["heads/pet/model.safetensors:x", "y:z"]]),
    "a layout of nothing": lambda data: data.update(memory_formats={"channels_last": ["a/b/c:d"]}),
    "a layout of a vector": lambda data: data.update(
        memory_formats={"channels_last": ["backbones/main/model.safetensors:0.bias"]}
    ),
    "an unknown layout": lambda data: data.update(memory_formats={"upside_down": []}),
    "a stream's name": lambda data: data["model"]["streams"].update({"../x": data["model"]["streams"]["main"]}),
    "a list for the model": lambda data: data.update(model=[]),
    "a number for a version": lambda data: data.update(format_version=1.0),
}


@pytest.mark.parametrize("case", sorted(EDITS))
def test_an_edit_that_knows_the_checksum_is_refused_by_load(bundle, make, case):
    make.rewrite(bundle, EDITS[case])

    with pytest.raises(BundleError):
        zoo.load(bundle)
    assert not zoo.verify(bundle, run=True).ok


def test_a_wrong_state_digest_is_seen_by_verify(bundle, make):
    make.rewrite(bundle, lambda data: data["components"][0].update(state_digest="zsd1:blake3:" + "0" * 64))

    report = zoo.verify(bundle)

    assert report.problems == [report.problems[0]]
    assert "backbones/main" in report.problems[0]


def test_a_changed_meaning_is_seen_by_the_probe(bundle, make):
    def shift(data):
        data["probe"]["outputs"]["pet"]["values"][0] += 0.01

    make.rewrite(bundle, shift)

    report = zoo.verify(bundle, run=True)

    assert zoo.verify(bundle).ok
    assert not report.ok
    assert report.probe["pet"] == pytest.approx(0.01, rel=1e-3)
    assert "'pet' gives another output" in report.problems[0]


def test_a_probe_of_another_input_is_not_run(bundle, make):
    make.rewrite(bundle, lambda data: data["probe"].update(inputs={"image": [2**40, 1, 8, 8]}))

    report = zoo.verify(bundle, run=True)

    assert not report.ok
    assert report.as_json()["probe"] == {"pet": None}


PATHS = [
    "../outside.safetensors",
    "..",
    "heads/../../outside",
    "/etc/passwd",
    "//etc/passwd",
    "heads\\pet\\x",
    "C:/x",
    "C:x",
    "nul",
    "heads/CON.txt",
    "heads//pet",
    "heads/pet/",
    "./x",
    ".hidden",
    "a/.git/x",
    "a\0b",
    "a\nb",
    "a b",
    "ä",
    "README.MD",
    "ZOO.json",
    "zoo.json",
    "README.md/x",
    "x" * 201,
    "trailing.",
    "~/x",
    "$HOME",
    "run.py",
    "weights.bin",
    "model.pt",
    "",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_hostile_path_is_refused_before_it_is_opened(bundle, make, path):
    (bundle.parent / "outside.safetensors").write_bytes(b"x")
    make.rewrite(bundle, lambda data: data["files"].update({path: data["files"]["README.md"]}))

    with pytest.raises(BundleError, match=r"names"):
        zoo.load(bundle)
    assert refused(bundle)


@pytest.mark.parametrize("kind", ["file link", "folder link", "pipe", "folder", "manifest link"])
def test_only_regular_files_are_read(bundle, kind):
    file = bundle / ("zoo.json" if kind == "manifest link" else "heads/pet/model.safetensors")
    away = bundle.parent / "away"
    if kind == "folder link":
        file.parent.rename(away)
        file.parent.symlink_to(away)
    else:
        file.rename(away)
        if kind == "pipe":
            os.mkfifo(file)
        elif kind == "folder":
            file.mkdir()
        else:
            file.symlink_to(away)

    with pytest.raises(BundleError, match="regular file"):
        zoo.load(bundle)
    assert not zoo.verify(bundle).ok


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"format":"zoo.bundle","format":"zoo.bundle"}',
        b'{"format":"zoo.bundle","format_version":NaN}',
        b'{"format":"zoo.bundle","format_version":"1.0","min_reader":1e309}',
        b'{"format":"zoo.bundle","n":' + b"9" * 5000 + b"}",
        b'{"format":"zoo.bundle","n":' + b"[" * 40 + b"]" * 40 + b"}",
        b"[" * 100_000,
        b'{"format":"zoo.bundle","format_version":"1.0","min_reader":"1.0","kind":"full"}',
        b'{"format":"zoo.bundle","format_version":"1.0","min_reader":"1.0","kind":"\\ud800"}',
        b" " * (4 * 2**20 + 1),
    ],
)
def test_a_hostile_manifest_is_refused(bundle, text):
    (bundle / "zoo.json").write_bytes(text)

    assert refused(bundle)


def test_a_manifest_in_another_spelling_is_refused(bundle):
    data = json.loads((bundle / "zoo.json").read_text())
    (bundle / "zoo.json").write_text(json.dumps(data, indent=1))

    assert refused(bundle)


def test_json_of_64_bits_and_32_levels_is_read():
    text = b"[" * 31 + b"-9223372036854775808, 18446744073709551615, 1e308" + b"]" * 31

    value = parse(text, "x", most=1000)
    for _ in range(30):
        (value,) = value

    assert value == [-(2**63), 2**64 - 1, 1e308]


def test_a_plugin_that_is_not_installed_is_named_with_its_package(bundle):
    registry().claims.pop("tiny")

    with pytest.raises(
        BundleError, match=r"plugin 'tiny' of zoo-tiny.*version 1\.2\.3.*Install the package 'zoo-tiny'"
    ):
        zoo.load(bundle)
    assert zoo.verify(bundle).ok
    assert "zoo-tiny" in zoo.verify(bundle, run=True).problems[0]


def test_a_plugin_of_a_head_inside_another_is_named_too(make, tmp_path):
    inner = {"type": "classifier", "name": "c", "classes": ["a", "b"]}
    path = make.tiny(zoo.head("multi_task", name="all", heads=[inner])).save(tmp_path / "bundle")
    claims = registry().claims.pop("heads")
    try:
        with pytest.raises(BundleError, match="plugin 'heads' of headzoo"):
            zoo.load(path)
    finally:
        registry().claims["heads"] = claims


def test_editing_a_file_after_loading_changes_no_tensor(bundle):
    model = zoo.load(bundle)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}

    for file in files_of(bundle):
        os.truncate(file, 3)

    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
