"""``zoo fit --augmentation``."""

import json

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


TINY = ("--backbone", "timm:test_resnet", "--weights", "none", "--epochs", "1")


@pytest.mark.slow
def test_fit_with_an_augmentation_writes_it_into_the_bundle(zoo, pets, tmp_path):
    told = zoo("fit", pets, "--out", tmp_path / "model", *TINY, "--augmentation", "light", "--json").json
    manifest = json.loads((tmp_path / "model" / "zoo.json").read_text())

    assert told["settings"]["augmentation"]["scale"] == [0.08, 1.0]
    assert '"flip": 0.5' in json.dumps(manifest)


def test_an_augmentation_that_does_not_exist_is_refused_before_training(zoo, pets, tmp_path):
    result = zoo("fit", pets, "--out", tmp_path / "model", *TINY, "--augmentation", "standrad")

    assert result.code == 2
    assert "it is one of none, light, standard" in result.err
    assert not (tmp_path / "model").exists()
