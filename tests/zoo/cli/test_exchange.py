"""``zoo inspect``, ``diff``, ``upgrade``, ``convert`` and ``export``: exit codes, JSON, and text that stays text."""

import json

import pytest
import safetensors.torch
import timm
import torch

import zoo as library

NASTY = (
    "\x1b[31mred\x1b[0m",
    "[link=http://evil.example]click[/link]",
    "[bold]loud[/bold]",
    "over\rwrite",
    "tab\tbell\x07",
    "\x9b31m c1",
    "right\u202eleft",
    "line\u2028separator",
    "zero\u200bwidth",
    "two\nlines",
)
HARMFUL = set("\x1b\x9b\r\x07\u202e\u2028\u200b")


def built(**settings):
    head = library.head("classifier", name="pet", classes=["cat", "dog"], **settings)
    return library.build("timm:test_resnet", head, weights=None, seed=0)


@pytest.fixture
def bundle(tmp_path):
    return built().save(tmp_path / "bundle")


def test_inspect_tells_what_is_in_a_bundle(zoo, bundle):
    told = zoo("inspect", bundle)

    assert told.code == 0
    assert told.err == ""
    for word in (
        "full",
        "timm:test_resnet",
        "stem s1 s2 s3 s4 post",
        "cat, dog",
        "headzoo",
        library.inspect(bundle).id,
    ):
        assert word in told.out
    assert "layer1.0.conv1.weight" not in told.out
    assert "layer1.0.conv1.weight" in zoo("inspect", bundle, "--tensors").out


def test_inspect_as_json_is_what_the_function_gives(zoo, bundle):
    told = library.inspect(bundle)

    assert zoo("inspect", bundle, "--json").json == json.loads(json.dumps(told.as_json(tensors=False)))
    assert zoo("inspect", bundle, "--json", "--tensors").json == json.loads(json.dumps(told.as_json()))


def test_inspect_tells_the_members_of_an_ensemble(zoo, bundle, tmp_path):
    both = library.save(library.ensemble({"a": bundle, "b": bundle}), tmp_path / "both", members="refer")
    assert zoo("inspect", both).out.count("timm:test_resnet") == 2

    bundle.rename(tmp_path / "away")
    told = zoo("inspect", both)
    assert told.code == 0
    assert "problem: " in told.out


def test_what_comes_from_a_file_is_written_as_text(zoo, tmp_path):
    head = library.head("classifier", name="pet", classes=[*NASTY, "plain"])
    model = library.build("timm:test_resnet", head, weights=None, seed=0)
    model.provenance = {"note": list(NASTY), "metrics": {text: 1 for text in NASTY}}
    path, other = model.save(tmp_path / "odd"), built().save(tmp_path / "bundle")

    for argv in (
        ["inspect", path],
        ["inspect", path, "--json"],
        ["diff", path, other],
        ["diff", other, path, "--json"],
    ):
        told = zoo(*argv)
        assert told.err == ""
        assert not HARMFUL & set(told.out), argv
        assert "[bold]loud[/bold]" in told.out


@pytest.mark.slow
def test_diff_has_the_exit_codes_of_diff(zoo, bundle, tmp_path):
    other = built()
    with torch.no_grad():
        other.backbones["main"].native.layer2[0].conv1.weight += 1
    other.provenance = {"metrics": {"accuracy": 0.5}}
    path = other.save(tmp_path / "other")

    same, differ, none = zoo("diff", bundle, bundle), zoo("diff", bundle, path), zoo("diff", bundle, tmp_path / "none")

    assert (same.code, differ.code, none.code) == (0, 1, 2)
    assert "nothing differs" in same.out
    assert "s2" in differ.out
    assert "metrics: provenance.metrics: (absent) → " in differ.out
    assert none.err.startswith("error: ")
    assert none.err.count("\n") == 1


def test_diff_as_json_is_what_the_function_gives(zoo, bundle, tmp_path):
    path = built(hidden=4).save(tmp_path / "other")

    told = zoo("diff", bundle, path, "--json")

    assert told.code == 1
    assert told.json == json.loads(json.dumps(library.diff(bundle, path).as_json()))


@pytest.mark.slow
def test_diff_tells_labels_and_members(zoo, bundle, tmp_path):
    head = library.head("classifier", name="pet", classes=["dog", "owl"])
    other = library.build("timm:test_resnet", head, weights=None, seed=0)
    one = library.save(library.ensemble({"a": bundle, "b": bundle}), tmp_path / "one")
    both = library.ensemble({"a": other, "b": other})

    told = zoo("diff", one, library.save(both, tmp_path / "two"))

    assert "member a: labels: pet: added owl" in told.out
    assert "member b: labels: pet: removed cat" in told.out
    assert "moved dog from 1 to 0" in told.out


def test_upgrade_says_what_is_current_already(zoo, bundle):
    told = zoo("upgrade", bundle)

    assert told.code == 0
    assert "already current" in told.out
    assert zoo("upgrade", bundle, "--json").json["current"]


def test_upgrade_of_what_is_not_there_is_an_error(zoo, tmp_path):
    assert zoo("upgrade", tmp_path / "none").code == 2


@pytest.mark.slow
def test_convert_export_and_back(zoo, tmp_path):
    theirs = timm.create_model("test_resnet", num_classes=2).eval()
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    made, out, again = tmp_path / "made", tmp_path / "out", tmp_path / "again"
    source = [tmp_path / "weights.safetensors", "--backbone", "timm:test_resnet"]

    told = zoo("convert", *source, "--head", "pet=classifier", "--classes", tmp_path / "names.txt", "--out", made)
    exported = zoo("export", made, "--layout", "timm", "--out", out, "--json")
    back = zoo(
        "convert",
        out / "model.safetensors",
        "--backbone",
        "timm:test_resnet",
        "--out",
        again,
        "--json",
        "--head",
        '{"type": "classifier", "name": "pet", "classes": ["cat", "dog"]}',
    )

    assert (told.code, exported.code, back.code) == (0, 0, 0)
    assert "the classifier fc for 2 classes" in told.out
    assert exported.json["classes"] == ["cat", "dog"]
    assert back.json["left_out"] == []
    assert all(row.same for row in library.diff(made, again).tensors)
    assert library.load(again).predict(torch.zeros(3, 160, 160))["pet"].label in ("cat", "dog")


def test_convert_tells_what_is_left_out(zoo, tmp_path):
    theirs = timm.create_model("test_resnet", num_classes=2)
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "w.safetensors")

    told = zoo(
        "convert",
        tmp_path / "w.safetensors",
        "--backbone",
        "timm:test_resnet",
        "--out",
        tmp_path / "x",
        "--backbone-only",
    )

    assert told.code == 0
    assert "left out: fc.bias\nleft out: fc.weight\n" in told.out


WRONG = [
    (["convert", "{new}"], "--backbone"),
    (["convert", "{new}", "--backbone", "timm:test_resnet", "--out", "{new}2"], "must be a file"),
    (["convert", "{bundle}", "--backbone", "timm:test_resnet", "--out", "{new}"], "must be a file"),
    (["convert", "{new}", "--backbone", "timm:no_such", "--out", "{new}2"], "no_such"),
    (["convert", "{new}", "--backbone", "timm:test_resnet", "--out", "{bundle}"], "exists"),
    (["export", "{bundle}", "--layout", "tflite", "--out", "{new}"], "--layout"),
    (["export", "{bundle}", "--layout", "transformers", "--out", "{new}"], "backbone of timm"),
    (["export", "{bundle}", "--layout", "timm", "--out", "{bundle}"], "exists"),
    (["export", "{new}", "--layout", "timm", "--out", "{new}2"], "no bundle"),
    (["inspect", "{new}"], "no bundle"),
    (["diff", "{bundle}"], "B"),
]


@pytest.mark.parametrize(
    ("argv", "word"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else value
)
def test_a_wrong_invocation_is_one_line_and_exit_code_2(zoo, bundle, tmp_path, argv, word):
    told = zoo(*(text.format(bundle=bundle, new=tmp_path / "new") for text in argv))

    assert told.code == 2
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert word in told.err


def test_the_commands_stand_in_their_panels(zoo):
    told = zoo("--help").out

    assert told.index("Check") < told.index("inspect") < told.index("Exchange") < told.index("convert")
