"""The command line takes URLs wherever it takes a bundle, and says nothing of a password."""

import json

import fsspec
import pytest
import torch
from PIL import Image

import zoo
from zoo.cli import main


@pytest.fixture
def run(capsys):
    """Run ``zoo`` with some arguments; gives the exit code, stdout and stderr."""

    def go(*argv):
        capsys.readouterr()
        code = main([str(arg) for arg in argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return go


@pytest.fixture
def photos(tmp_path):
    """A folder of two classes."""
    for kind, colour in (("cat", 40), ("dog", 200)):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for number in range(4):
            Image.new("L", (12, 12), colour + number).save(tmp_path / "photos" / kind / f"{number}.png")
    return tmp_path / "photos"


def test_verify_and_info_take_a_url(run, served, server, bundle):
    code, out, _ = run("verify", served, "--run")
    assert (code, out) == (0, f"{served}: ok, id {zoo.verify(bundle).id}\n")
    code, out, _ = run("info", served, "--json")
    assert (code, json.loads(out)["name"]) == (0, served)

    server.files["/pets/README.md"] = b"another"
    code, out, _ = run("verify", served)
    assert code == 1
    assert out.startswith(f"problem: {served}/README.md ")


def test_inspect_diff_and_export_take_a_url(run, served, bundle, make, tmp_path):
    code, out, _ = run("inspect", served, "--tensors", "--json")
    assert (code, json.loads(out)["path"]) == (0, served)
    assert {**json.loads(out), "path": str(bundle)} == json.loads(json.dumps(zoo.inspect(bundle).as_json()))

    code, out, _ = run("diff", served, bundle, "--json")
    assert (code, json.loads(out)["a"], json.loads(out)["b"]) == (0, served, str(bundle))
    changed = zoo.load(bundle)
    with torch.no_grad():
        changed.heads["pet"].layers[0].bias += 1
    code, out, _ = run("diff", changed.save(tmp_path / "changed"), served, "--json")
    assert code == 1
    assert [row["changed"] for row in json.loads(out)["tensors"] if row["changed"]] == [1]

    code, _, err = run("export", served, "--layout", "timm", "--out", tmp_path / "flat")
    assert code == 2
    assert "timm" in err
    assert not (tmp_path / "flat").exists()


def test_predict_and_evaluate_take_a_url(run, served, photos, tmp_path):
    told = {}
    for place in (served, tmp_path / "home" / "bundle"):
        code, out, err = run("predict", place, photos / "cat", "--json")
        assert code == 0, err
        told[str(place)] = [json.loads(out)]
        code, out, err = run("evaluate", place, photos, "--json")
        assert code == 0, err
        told[str(place)].append(json.loads(out))

    assert told[served] == told[str(tmp_path / "home" / "bundle")]
    assert len(told[served][0]) == 4


def test_a_url_that_leads_nowhere_is_one_line_without_its_password(run, server, photos):
    url = server.url.replace("://", "://me:hunter2x@") + "/none?token=tok3nvalue"
    for command in (("predict", url, photos), ("evaluate", url, photos), ("info", url), ("verify", url)):
        code, out, err = run(*command)
        assert code == (1 if command[0] == "verify" else 2)
        assert f"There is no bundle at {server.url}/none: it has no zoo.json." in out + err
        assert not any(secret in out + err for secret in ("hunter2x", "tok3nvalue"))
        assert len((out + err).splitlines()) <= 2


@pytest.mark.slow
def test_fit_saves_to_a_url_and_refuses_a_bad_one_before_it_trains(run, photos, served):
    fsspec.filesystem("memory").store.clear()
    begin = ("fit", photos, "--backbone", "timm:test_vit", "--weights", "none", "--epochs", 1, "--out")

    code, out, _ = run(*begin, "memory://fits/pets")
    assert code == 0
    assert "memory://fits/pets is saved. Next: zoo predict memory://fits/pets picture.jpg" in out
    assert list(zoo.load("memory://fits/pets").tasks()) == ["label"]

    for target, words in (("memory://fits/pets", "overwrite=True"), (served, "can only be read"), ("s4://x/y", "s4")):
        code, out, err = run(*begin, target)
        assert (code, out) == (2, "")
        assert words in err
    assert run(*begin, "memory://fits/pets", "--overwrite", "--json")[0] == 0
    fsspec.filesystem("memory").store.clear()


def test_an_ensemble_is_built_of_urls_and_saved_to_one(run, served, photos, tmp_path):
    fsspec.filesystem("memory").store.clear()
    code, out, err = run("ensemble", "build", f"one={served}", tmp_path / "home/bundle", "--out", "memory://both")
    assert code == 0, err
    assert "memory://both is saved." in out

    code, out, err = run("ensemble", "evaluate", "memory://both", photos, "--json")
    assert code == 0, err
    assert list(json.loads(out)["members"]) == ["one", "member2"]
    fsspec.filesystem("memory").store.clear()
