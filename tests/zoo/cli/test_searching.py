"""``zoo search``: the best of a space as a bundle, in words and in JSON."""

import json

import pytest
import torch
from PIL import Image

import zoo as library
from zoo.searching import trying

SPACE = """
base: "timm:mnasnet_100?img_size=32"
stages:
  - {width: [8, 16], expansion: [1], depth: [1], se: [0]}
  - {width: [16, 24], expansion: [2], depth: [1]}
last_width: [16]
"""
QUICK = ("--trials", "2", "--epochs", "1", "--final-epochs", "1", "--device", "cpu", "--set", "batch_size=8")


@pytest.fixture
def photos(tmp_path):
    """Noise; dogs are brighter."""
    drawn = torch.Generator().manual_seed(0)
    for kind, light in (("cat", 0), ("dog", 120)):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for number in range(8):
            noise = (torch.rand(32, 32, 3, generator=drawn) * 120 + light).byte().numpy()
            Image.fromarray(noise).save(tmp_path / "photos" / kind / f"{number}.png")
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path


@pytest.mark.slow
def test_the_best_is_a_bundle_and_the_front_a_table(zoo, photos):
    asked = ("search", photos / "photos", "--space", photos / "space.yaml", "--out", photos / "study", *QUICK)
    scored = ("--screened", "3", "--cut", "1", "--score", "synflow")
    told = zoo(*asked, *scored, "--max-macs", "2e6", "--sampler", "random", "--picture", photos / "front.png")
    lines = [json.loads(line) for line in (photos / "study" / "trials.jsonl").read_text().splitlines()]

    assert told.code == 0, told.err
    assert "2 of 5 candidates were trained; the best is trial" in told.out
    assert "zoo predict" in told.out
    assert [sorted(line["scores"]) for line in lines[:3]] == [["synflow"]] * 3
    assert all(line["fit"]["batch_size"] == 8 for line in lines[3:])
    assert (photos / "front.png").stat().st_size > 1000
    assert library.load(photos / "study" / "best").provenance["search"]["epochs"] == 1


@pytest.mark.slow
def test_a_search_tells_all_in_json_and_goes_on(zoo, photos):
    asked = ("search", photos / "photos", "--space", photos / "space.yaml", "--out", photos / "study", *QUICK)
    more = ("--sampler", "evolutionary", "--set-sampler", "population_size=2", "--minimize", "parameters", "--json")
    first, second = (json.loads(zoo(*asked, *more).out) for _ in range(2))

    assert first == second
    assert first["best"] in first["trials"]
    assert set(first["metrics"]) == {"validation", "test"}


@pytest.mark.slow
def test_what_cannot_be_is_said_in_a_sentence(zoo, photos, monkeypatch):
    monkeypatch.setattr(trying, "PATIENCE", 5)

    def err(*more, space=photos / "space.yaml"):
        found = zoo("search", photos / "photos", "--space", space, "--out", photos / "study", *QUICK, *more)
        assert found.code == 2
        return found.err

    assert "No sampler is called 'tep'" in err("--sampler", "tep")
    assert "cannot be read" in err(space=photos / "none.yaml")
    assert "'population'" in err("--sampler", "evolutionary", "--set-sampler", "population=2")
    assert "none kept the limits max_parameters=1" in err("--max-parameters", "1", "--sampler", "random")
    assert not (photos / "study" / "best").exists()
