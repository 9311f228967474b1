"""A run's history as files and as a picture, and trackers."""

import csv
import importlib.util
import json
import sys
import types

import pytest
from transformers import TrainerCallback
from transformers.integrations import integration_utils

import zoo
from zoo.errors import ConfigError, PluginError, UnknownName
from zoo.training.judging import reporting
from zoo.training.judging.history import EpochRow, History
from zoo.training.judging.records import write_records

PLAIN = {"method": "feature_extraction", "epochs": 3, "batch_size": 8, "device": "cpu"}
ROWS = [
    EpochRow(1, 0.5, 0.25, {"kind": {"accuracy": 0.75}}, 0.75, 1.5, 2**20),
    EpochRow(2, 0.25, None, {}),
    EpochRow(3, float("nan"), 0.125, {"kind": {"accuracy": 1.0, "f1": 0.5}}, 1.0, 2.5, 2**21),
]


def test_a_run_leaves_its_history_as_json_lines_and_as_a_table(model, table, tmp_path):
    history = zoo.fit(model(), table(), checkpoint=tmp_path, **PLAIN)

    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [line["train_loss"] for line in lines] == [row.train_loss for row in history.epochs]
    assert [float(row["train_loss"]) for row in rows] == [row.train_loss for row in history.epochs]
    assert [float(row["kind/accuracy"]) for row in rows] == [
        row.validation["kind"]["accuracy"] for row in history.epochs
    ]
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]


def test_every_epoch_says_its_seconds_and_memory(model, table):
    history = zoo.fit(model(), table(), **PLAIN)

    assert all(0 < row.seconds < history.seconds for row in history.epochs)
    assert all(row.memory > 10 * 2**20 for row in history.epochs)


def test_the_value_that_decides_is_noted_so_that_more_is_better(model, table):
    history = zoo.fit(model(), table(), select="loss", **PLAIN)

    assert [row.score for row in history.epochs] == [-row.validation_loss for row in history.epochs]


def test_columns_are_those_of_all_epochs_and_what_is_no_number_is_null(tmp_path):
    write_records(tmp_path, ROWS)

    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert lines[2]["train_loss"] is None
    assert list(rows[0])[-2:] == ["kind/accuracy", "kind/f1"]
    assert [row["kind/f1"] for row in rows] == ["", "", "0.5"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.csv", "history.jsonl"]


# --- the picture


def test_a_curve_without_matplotlib_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    history = History("fine_tuning", {}, {}, ROWS)

    with pytest.raises(PluginError, match=r"needs matplotlib: pip install 'headzoo\[plot\]'"):
        history.plot(tmp_path / "curve.png")


def test_a_history_without_epochs_has_no_curve(tmp_path):
    with pytest.raises(ConfigError, match="There is no epoch to draw"):
        History("fine_tuning", {}, {}).plot(tmp_path / "curve.png")


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is an extra")
def test_a_curve_is_a_picture(tmp_path):
    from PIL import Image

    history = History("fine_tuning", {}, {}, ROWS, select="kind/accuracy", best_epoch=3)

    path = history.plot(tmp_path / "curve.png")

    with Image.open(path) as picture:
        assert picture.width > 300
        assert len(picture.convert("RGB").getcolors(maxcolors=10**6)) > 3
    with pytest.raises(ConfigError, match="cannot be written to"):
        history.plot(tmp_path / "curve.unknown")


# --- trackers


def test_a_tracker_that_is_not_installed_is_named_with_what_to_install(model, table, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(PluginError, match=r"report_to='mlflow' needs a package .* pip install mlflow"):
        zoo.fit(model(), table(), report_to=["mlflow"], **PLAIN)


def test_an_unknown_tracker_is_named_with_the_nearest(model, table):
    with pytest.raises(UnknownName, match="There is no tracker 'tensorbord'; report_to takes tensorboard"):
        zoo.fit(model(), table(), report_to="tensorbord", **PLAIN)


def test_every_tracker_is_one_of_the_engine():
    assert set(reporting.TRACKERS) <= set(integration_utils.INTEGRATION_TO_CALLBACK)


def test_a_tracker_is_told_of_each_epoch_by_the_engine(model, table, monkeypatch, tmp_path):
    told = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            told.append((state.global_step, dict(logs)))

    monkeypatch.setitem(sys.modules, "trackio", types.ModuleType("trackio"))
    monkeypatch.setattr(sys.modules["trackio"], "__spec__", importlib.machinery.ModuleSpec("trackio", None))
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "trackio", Tracker)

    history = zoo.fit(model(), table(), report_to="trackio", checkpoint=tmp_path / "run", **PLAIN)

    losses = [logs["loss"] for _, logs in told if "loss" in logs]
    assert losses == [row.train_loss for row in history.epochs]
    assert [logs["eval_loss"] for _, logs in told if "eval_loss" in logs] == [
        row.validation_loss for row in history.epochs
    ]
