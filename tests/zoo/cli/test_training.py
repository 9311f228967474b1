"""``zoo fit`` and ``zoo evaluate``, for real, on a tiny network with random weights."""

import csv
import json
from pathlib import Path

import pytest
import torch

import zoo.training.fitting as zoo_fitting
from zoo import load
from zoo.cli.arguments import read_head, read_settings

TINY = ("--backbone", "timm:test_resnet", "--weights", "none", "--epochs", "2", "--method", "feature_extraction")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


def table(pets: Path) -> Path:
    """Write a table of the pictures, their class, their number, and a split."""
    path = pets.parent / "pets.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "kind", "age", "part"])
        for kind in ("cat", "dog"):
            for number in range(10):
                part = "test" if number > 7 else "val" if number > 5 else "train"
                writer.writerow([f"pets/{kind}/{number}.png", kind, number + 0.5, part])
    return path


@pytest.mark.slow
def test_fit_saves_a_bundle_and_says_what_to_type_next(zoo, pets, tmp_path):
    out = tmp_path / "models" / "pets"

    result = zoo("fit", pets, "--out", out, *TINY)

    assert result.code == 0
    assert (out / "zoo.json").is_file()
    assert "16 train, 4 validation" in result.err
    assert "0 cat, 1 dog" in result.err
    assert "label  balanced_accuracy" in result.out
    assert result.out.splitlines()[-1] == f"{out} is saved. Next: zoo predict {out} picture.jpg"
    assert zoo("verify", out, "--run").code == 0


@pytest.mark.slow
def test_a_saved_model_is_trained_on_with_its_heads_and_its_state(zoo, pets, tmp_path):
    first, second, typed = tmp_path / "first", tmp_path / "second", tmp_path / "run.yaml"
    settings = ["--method", "continual", "--set", "how=replay", "--set", "memory=4", "--epochs", "1"]
    assert zoo("fit", pets, "--out", first, *TINY[:4], *settings).code == 0
    more = table(pets)
    more.write_text(more.read_text().replace(",cat,", ",fox,").replace("kind", "label"))

    assert zoo("fit", more, "--model", first, "--out", second, *settings).code == 0
    model = load(second)
    assert model.task("label").config.classes == ("cat", "dog", "fox")
    assert model.state["continual"]["tasks"] == 2
    assert set(model.tasks()) == {"label"}  # and none for the table's other columns

    before = load(first).backbones["main"].state_dict()
    typed.write_text(json.dumps({"data": str(pets), "model": str(first), "method": "feature_extraction", "epochs": 1}))
    assert zoo("fit", "--file", typed, "--out", first, "--overwrite").code == 0
    after = load(first)
    assert after.task("label").config.classes == ("cat", "dog")
    assert all(torch.equal(tensor, before[key]) for key, tensor in after.backbones["main"].state_dict().items())


def test_a_saved_model_brings_all_that_is_built_otherwise(zoo, pets, tmp_path):
    for more in (TINY[:4], ("--head", "classifier"), ("--target", "kind", "--input", "image")):
        result = zoo("fit", pets, "--model", tmp_path / "any", "--out", tmp_path / "out", *more)
        assert result.code == 2
        named = [option for option in ("--backbone", "--weights", "--head", "--target", "--input") if option in more]
        assert all(option in result.err.partition("leave")[2].partition("out,")[0] for option in named)
    result = zoo("fit", pets, "--model", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert (result.code, "nowhere" in result.err) == (2, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_delta_of_another_bundle_has_no_backbone_of_its_own(zoo, pets, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_STORE", str(tmp_path / "store"))
    first, second = tmp_path / "first", tmp_path / "second"
    zoo("fit", pets, "--out", first, *TINY)

    assert zoo("fit", pets, "--out", second, *TINY, "--kind", "delta", "--base", first).code == 0
    assert sum(path.stat().st_size for path in second.rglob("*.safetensors")) < 10_000
    assert zoo("verify", second, "--run").code == 0
    refused = zoo("fit", "nowhere", "--out", tmp_path / "third", *TINY, "--base", first)
    assert (refused.code, "say so: kind='delta'" in refused.err) == (2, True)
    assert zoo("fit", "nowhere", "--out", tmp_path / "third", *TINY, "--kind", "half").code == 2


@pytest.mark.slow
def test_the_labels_and_parts_are_told_before_training(zoo, pets, tmp_path, monkeypatch, capsys):
    told = []
    train = zoo_fitting.train
    monkeypatch.setattr(zoo_fitting, "train", lambda *a, **k: (told.append(capsys.readouterr().err), train(*a, **k)))

    zoo("fit", pets, "--out", tmp_path / "model", *TINY)

    assert "0 cat, 1 dog" in told[0]
    assert "16 train, 4 validation" in told[0]


@pytest.mark.slow
def test_fit_in_json_is_the_history_and_the_bundle(zoo, pets, tmp_path):
    told = zoo("fit", pets, "--out", tmp_path / "model", *TINY, "--patience", "5", "--select", "loss", "--json").json

    assert told["bundle"] == str(tmp_path / "model")
    assert told["rows"] == {"train": 16, "validation": 4}
    assert told["select"] == "loss"
    assert told["settings"]["patience"] == 5
    assert len(told["epochs"]) == 2


@pytest.mark.slow
def test_two_targets_of_a_table_become_two_heads_and_its_split_is_kept(zoo, pets, tmp_path):
    out = tmp_path / "model"
    argv = ("--target", "kind", "--target", "age", "--image", "image", "--split", "part")

    plain = zoo("fit", table(pets), "--out", out, *TINY, *argv)
    told = zoo("evaluate", out, table(pets), "--split", "test", "--split-column", "part", "--json")

    assert plain.code == 0
    assert plain.out.splitlines()[0].split() == ["task", "metric", "validation", "test"]
    assert set(told.json) == {"kind", "age"}
    assert set(told.json["age"]) == {"mae", "rmse"}


@pytest.mark.slow
def test_heads_are_given_by_type_by_name_and_as_json(zoo, pets, tmp_path):
    heads = ("--head", "kind=classifier", "--head", json.dumps({"type": "regression", "name": "age", "loss": "huber"}))

    told = zoo("fit", table(pets), "--out", tmp_path / "model", *TINY, *heads, "--json")

    assert told.code == 0
    assert set(told.json["validation"]) == {"kind", "age"}


@pytest.mark.slow
def test_a_setting_of_the_method_and_of_the_run_is_passed_on(zoo, pets, tmp_path):
    options = ("--method", "fine_tuning", "--set", "backbone_lr_scale=0.5", "--warmup", "0.25", "--seed", "3", "--json")
    told = zoo("fit", pets, "--out", tmp_path / "model", *TINY, *options).json

    assert told["settings"]["backbone_lr_scale"] == 0.5
    assert told["settings"]["warmup"] == 0.25
    assert told["settings"]["seed"] == 3


@pytest.mark.slow
def test_an_unreadable_picture_is_left_out_or_with_strict_an_error(zoo, pets, tmp_path):
    (pets / "cat" / "bad\n\x1b[31m.png").write_bytes(b"nothing")

    loose = zoo("fit", pets, "--out", tmp_path / "loose", *TINY)
    strict = zoo("fit", pets, "--out", tmp_path / "strict", *TINY, "--strict")

    assert loose.code == 0
    assert "bad\\n\\x1b[31m.png" in loose.err
    assert "left out, since they could not be read: 1" in loose.err
    assert strict.code == 2
    assert not (tmp_path / "strict").exists()
    assert "\x1b" not in loose.err + strict.err


@pytest.mark.slow
def test_a_bundle_that_is_there_is_refused_before_training_and_replaced_if_asked(zoo, pets, tmp_path):
    out = tmp_path / "model"
    assert zoo("fit", pets, "--out", out, *TINY).code == 0
    before = (out / "zoo.json").read_bytes()

    refused = zoo("fit", pets, "--out", out, *TINY)
    replaced = zoo("fit", pets, "--out", out, *TINY, "--seed", "9", "--overwrite")

    assert refused.code == 2
    assert "--overwrite" in refused.err
    assert "train" not in refused.err
    assert replaced.code == 0
    assert (out / "zoo.json").read_bytes() != before


@pytest.mark.slow
def test_evaluate_measures_and_tells_a_table(zoo, pets, tmp_path):
    out = tmp_path / "model"
    zoo("fit", pets, "--out", out, *TINY)

    plain, told = (
        zoo("evaluate", out, pets),
        zoo("evaluate", out, pets, "--json", "--batch-size", "3", "--device", "cpu"),
    )
    missing = zoo("evaluate", out, pets, "--split", "test")

    assert plain.out.splitlines()[0].split() == ["task", "metric", "all", "rows"]
    assert set(told.json["label"]) == {"accuracy", "balanced_accuracy", "f1"}
    assert missing.code == 2
    assert "test" in missing.err


def test_heads_are_read_as_they_are_typed():
    assert read_head("classifier").flat() == {"type": "classifier", "name": "classifier"}
    assert read_head("age=regression").flat() == {"type": "regression", "name": "age"}
    assert read_head(' {"type": "classifier", "classes": ["a", "b"]}').config == {"classes": ["a", "b"]}


def test_values_of_settings_are_json_or_text():
    given = read_settings(["a=1", "b=0.5", "c=true", "d=s3", "e=[1, 2]", "f=", "g=x=y"], taken=())

    assert given == {"a": 1, "b": 0.5, "c": True, "d": "s3", "e": [1, 2], "f": "", "g": "x=y"}
