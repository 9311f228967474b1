"""Segmentation by the command line: masks named, learnt, measured and predicted."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

RUN = ("--backbone", "timm:test_resnet", "--weights", "none", "--method", "feature_extraction", "--epochs", "2")


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    rng, rows = np.random.default_rng(0), [["image", "map"]]
    for number in range(8):
        mask = np.zeros((64, 80), np.uint8)
        mask[16:48, 16 : 40 + number] = 1
        pixels = np.where(mask[..., None] == 1, (220, 40, 40), (40, 60, 90)) + rng.integers(-20, 20, (64, 80, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(tmp_path / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / f"{number}-map.png")
        rows.append([f"{number}.png", f"{number}-map.png"])
    with (tmp_path / "scenes.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path / "scenes.csv"


@pytest.mark.slow
def test_masks_are_learnt_measured_and_predicted(zoo, scenes, tmp_path):
    out = tmp_path / "model"
    head = '{"type": "segmentation", "name": "map", "classes": ["ground", "box"], "dim": 8}'

    fitted = zoo("fit", scenes, "--out", out, "--head", head, "--mask", "map", *RUN)
    measured = zoo("evaluate", out, scenes, "--json")
    predicted = zoo("predict", out, tmp_path / "0.png", "--json")
    together = zoo("ensemble", "build", out, out, "--out", tmp_path / "both")
    by_both = zoo("ensemble", "evaluate", tmp_path / "both", scenes, "--json")

    assert fitted.code == 0, fitted.err
    assert set(measured.json["map"]) == {"miou", "pixel_accuracy"}
    shares = predicted.json[0]["predictions"]["map"]["shares"]
    assert sum(shares.values()) == pytest.approx(1)
    assert set(shares) == {"ground", "box"}
    assert (together.code, by_both.code) == (0, 0), together.err + by_both.err


def test_a_column_of_masks_that_is_not_there_is_refused(zoo, scenes, tmp_path):
    result = zoo("fit", scenes, "--out", tmp_path / "model", "--head", "segmentation", "--mask", "mpa", *RUN)

    assert result.code == 2
    assert "no column 'mpa'" in result.err
    assert "Did you mean 'map'" in result.err
