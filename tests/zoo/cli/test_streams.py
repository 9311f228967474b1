"""Several streams by the command line: trained from a table or a run file, predicted, measured and drawn."""

from __future__ import annotations

import csv
import inspect
import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from zoo.cli import training
from zoo.cli.runfile import RunFile, read_run

STREAMS = ("--stream", "top=timm:test_resnet", "--stream", "side=timm:test_vit")
HEADS = (
    {"type": "classifier", "name": "kind", "stream": "top"},
    {"type": "regression", "name": "age", "stream": "side"},
)
FAST = ("--weights", "none", "--method", "feature_extraction", "--epochs", "1")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pairs(tmp_path) -> Path:
    rng, rows = np.random.default_rng(0), [["top", "side", "kind", "age"]]
    for number in range(12):
        for name in ("top", "side"):
            Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(tmp_path / f"{name}{number}.png")
        rows.append([f"top{number}.png", f"side{number}.png", "ab"[number % 2], str(number + 0.5)])
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path / "pairs.csv"


@pytest.mark.slow
def test_two_streams_are_trained_measured_predicted_and_drawn(zoo, pairs, tmp_path):
    out = tmp_path / "model"
    typed = [part for head in HEADS for part in ("--head", json.dumps(head))]

    fitted = zoo("fit", pairs, "--out", out, *STREAMS, *typed, *FAST)
    measured = zoo("evaluate", out, pairs, "--json").json
    predicted = zoo("predict", out, pairs, "--json").json
    drawn = zoo("info", out)
    alone = zoo("predict", out, tmp_path / "top0.png")

    assert fitted.code == 0
    assert fitted.out.splitlines()[-1].endswith("table.csv")
    assert {task: set(metrics) >= {"accuracy"} for task, metrics in measured.items()} == {"kind": True, "age": False}
    assert [set(row["predictions"]) for row in predicted] == [{"kind", "age"}] * 12
    assert predicted[3]["picture"] == str(tmp_path / "top3.png")
    lines = drawn.out.splitlines()
    assert lines[1].startswith("├─ top: timm:test_resnet")
    assert "gives pooled 96; 372,688 parameters" in lines[1]
    assert lines[3:] == [
        "├─ kind: classifier on top; gives kind 2; 194 parameters",
        "└─ age: regression on side; gives age one number; 65 parameters",
    ]
    assert (alone.code, alone.err) == (
        2, "error: The model takes top, side; give one .csv, .tsv, .parquet file with a column for each.\n",
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_file_stands_for_options_and_what_is_typed_goes_first(zoo, pairs, tmp_path):
    said = {
        "data": str(pairs), "out": str(tmp_path / "other"), "streams": {"left": "timm:test_resnet"},
        "share": {"right": "left"}, "inputs": {"left": "top", "right": "side"},
        "heads": [{**HEADS[0], "stream": "left"}, {**HEADS[1], "stream": "right"}],
        "weights": "none", "method": "feature_extraction", "epochs": 3, "lr": 0.01, "patience": 9,
        "augmentation": {"flip": 0.5},
    }  # fmt: skip
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(said))  # JSON is YAML

    told = zoo("fit", "--file", file, "--epochs", "1", "--out", tmp_path / "model", "--json").json

    assert Path(told["bundle"]) == tmp_path / "model"
    settings = told["settings"]
    assert (settings["epochs"], settings["lr"], settings["patience"]) == (1, 0.01, 9)
    assert settings["augmentation"]["flip"] == 0.5
    manifest = json.loads((tmp_path / "model" / "zoo.json").read_text())["model"]["streams"]
    assert {name: (one["input"], one["shares"]) for name, one in manifest.items()} == {
        "left": ("top", None), "right": ("side", "left"),
    }  # fmt: skip


def test_every_field_of_a_run_file_is_an_option_of_fit(tmp_path):
    said = {
        "data": "d", "out": "o", "backbone": "b", "streams": {"a": "b"}, "inputs": {"a": "c"}, "share": {"e": "a"},
        "heads": ["classifier"], "targets": ["t"], "masks": ["m"], "method": "m", "settings": {"k": 1},
        "weights": "none", "epochs": 2, "batch_size": 3, "lr": 0.1, "weight_decay": 0.2, "seed": 4, "device": "cpu",
        "precision": "fp32", "validation": 0.3, "patience": 5, "select": "loss", "augmentation": {"flip": 0.5},
        "image": "i", "split": "s", "strict": True, "overwrite": True, "warmup": 0.1, "optimizer": "sgd",
        "optimizer_settings": {"momentum": 0.9}, "schedule": "linear", "schedule_settings": {"floor": 0.1}, "clip": 2.0,
        "accumulate": 2, "freeze": ["s1"], "freeze_norms": True, "cached_views": 2, "feature_precision": "bf16",
        "solver": "sgd", "sampling": "balanced", "mixup": 0.2, "cutmix": 0.3, "ema": 0.9, "checkpoint": "c",
        "shots": 5, "unlabelled": "u", "kind": "delta", "base": "b",
        "resume": True, "checkpoint_every": 5, "keep_checkpoints": 3, "report_to": ["tensorboard"], "compile": True,
        "sharded": True, "model": "m",
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(said))

    typed = read_run(tmp_path / "run.json")

    assert set(said) == {field.name for field in fields(RunFile)}
    assert len(typed) == len(said)
    assert set(typed) <= set(inspect.signature(training.fit).parameters)


@pytest.mark.slow
def test_one_input_may_feed_all_streams(zoo, pairs, tmp_path):
    typed = [part for head in HEADS for part in ("--head", json.dumps(head))]

    result = zoo("fit", pairs, "--out", tmp_path / "m", *STREAMS, "--input", "image", "--image", "top", *typed, *FAST)

    assert result.code == 0
    assert result.out.splitlines()[-1].endswith("picture.jpg")
    assert zoo("predict", tmp_path / "m", tmp_path / "side0.png").code == 0


def test_the_schema_is_that_of_the_run_files(zoo):
    schema = zoo("schema").json

    assert schema["additionalProperties"] is False
    assert schema == TypeAdapter(RunFile).json_schema()
    assert {"streams", "heads", "method", "epochs"} <= set(schema["properties"])


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (("--backbone", "timm:vit", "--stream", "a=timm:vit"), "takes --backbone REF, or --stream NAME=REF"),
        ((), "takes --backbone REF, or --stream NAME=REF"),
        (("--stream", "timm:vit"), "--stream must be NAME=VALUE, got 'timm:vit'"),
        (("--stream", "a=timm:vit", "--stream", "a=timm:vit"), "--stream a=… is given twice"),
        ((*STREAMS, "--input", "image", "--input", "top=image"), "--input image is the input of all streams"),
        ((*STREAMS, "--input", "tpo=image"), "inputs names the input of 'tpo', and the streams are top"),
        ((*STREAMS, "--share", "x=nobody"), "share must give a new stream"),
        ((*STREAMS, "--head", "kind=classifier", *FAST), "must say which stream it reads: stream=… of top, side"),
    ],
)
def test_wrong_streams_are_refused_in_one_sentence(zoo, pairs, tmp_path, typed, sentence):
    result = zoo("fit", pairs, "--out", tmp_path / "model", *typed)

    assert result.code == 2
    assert sentence in result.err
    assert result.err.count("error:") == 1
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("bakbone: timm:vit", "has no option 'bakbone'; it takes backbone"),
        ("epochs: many", "epochs: Input should be a valid integer"),
        ("- a list", "must hold options by name"),
        ("a: [", "cannot be read as YAML or JSON"),
        (None, "cannot be read as YAML or JSON"),
    ],
)
def test_a_run_file_that_says_something_else_is_refused(zoo, tmp_path, content, sentence):
    if content is not None:
        (tmp_path / "run.yaml").write_text(content)

    result = zoo("fit", "--file", tmp_path / "run.yaml")

    assert result.code == 2
    assert sentence in result.err
