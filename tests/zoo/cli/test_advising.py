"""``zoo advise`` and ``zoo fit --method auto``, for real, on a tiny network with random weights."""

import shlex

import pytest

TINY = ("--backbone", "timm:test_resnet", "--weights", "none")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
def test_advise_prints_the_evidence_the_quadrant_and_the_command_that_follows(zoo, pets, tmp_path):
    result = zoo("advise", pets, *TINY, "--no-probe")

    lines = result.out.splitlines()
    assert result.code == 0
    assert lines[0] == f"{pets}: 20 training rows, features of 20 of them measured"
    assert ["label", "label", "20", "10", "10", "1.00"] in [line.split() for line in lines]
    assert any(line.split()[:2] == ["label", "pixels"] for line in lines)
    assert any(line.startswith("small and similar: feature_extraction, since ") for line in lines)
    assert "note: The backbone of main has random weights" in result.err
    command = shlex.split(lines[-1].removeprefix("Next: "))
    assert command[:3] == ["zoo", "fit", str(pets)]
    assert command[-10:-8] == ["--method", "feature_extraction"]
    assert not (tmp_path / "my-model").exists()


@pytest.mark.slow
def test_the_command_that_follows_runs_as_it_is_printed(zoo, pets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = zoo("advise", pets, *TINY, "--json", "--rows", "20", "--no-probe").json
    _, *words = shlex.split(told["command"])

    assert told["drift"] is None
    assert zoo(*words, "--epochs", "1").code == 0
    assert (tmp_path / "my-model" / "zoo.json").is_file()


@pytest.mark.slow
def test_fit_follows_the_advice_but_for_what_is_typed_or_in_the_file(zoo, pets, tmp_path):
    run = tmp_path / "run.yaml"
    run.write_text("method: auto\nlr: 0.02\n")

    told = zoo("fit", pets, *TINY, "--out", tmp_path / "model", "--file", run, "--epochs", "2", "--json").json

    assert told["method"] == "feature_extraction"
    assert (told["settings"]["epochs"], told["settings"]["lr"]) == (2, 0.02)
    assert told["settings"]["patience"] == told["advice"]["advised"]["settings"]["patience"]
    assert told["advice"]["chosen"]["lr"] == 0.02


def test_wrong_invocations_are_named(zoo, pets):
    assert "zoo advise takes --backbone REF" in zoo("advise", pets).err
    assert "leave --target out" in zoo("advise", pets, *TINY, "--head", "classifier", "--target", "label").err
    assert zoo("advise", pets, *TINY, "--rows", "3").code == 2
    assert "zoo advise DATA says which" in zoo("plan", *TINY[:2], "--method", "auto").err


def test_data_that_cannot_be_judged_is_said_in_a_line(zoo, pets):
    for picture in (pets / "dog").glob("[1-9].png"):
        picture.unlink()

    result = zoo("advise", pets, *TINY, "--no-probe")

    assert result.code == 2
    assert result.err.splitlines()[-1].startswith("error: The rows of 'label' must have two classes or more")
