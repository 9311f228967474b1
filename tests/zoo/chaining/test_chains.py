"""Chains: a bundle after each step, the same test rows for all, and on from where they died."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import zoo
from zoo.chaining import running
from zoo.chaining.recipe import read_chain
from zoo.claiming import claimed

FIT = {"method": "feature_extraction", "epochs": 2, "batch_size": 8, "device": "cpu"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ZOO_STORE", str(tmp_path / "store"))


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "pets"
    noise = np.random.default_rng(0)
    for number in range(40):
        kind = ("cat", "dog")[number % 2]
        (folder / kind).mkdir(parents=True, exist_ok=True)
        pixels = noise.integers(0, 150, (24, 24, 3), dtype=np.uint8) + 90 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / kind / f"{number}.png")
    return folder


@pytest.fixture
def recipe(pets, tmp_path):
    """Write a chain of two trainings and an export, with changes."""

    def write(name="chain.yaml", **changes):
        steps = [
            {"name": "probe", "fit": FIT},
            {"name": "tune", "fit": {**FIT, "method": "fine_tuning", "lr": 0.01}},
            {"name": "native", "export": {"layout": "timm"}},
        ]
        model = {"backbone": "timm:test_resnet?img_size=32", "weights": "none"}
        path = tmp_path / name
        path.write_text(yaml.safe_dump({"data": str(pets), "model": model, "steps": steps, **changes}))
        return path

    return write


@pytest.mark.slow
def test_each_step_leaves_what_the_same_calls_by_hand_leave(recipe, pets, tmp_path):
    result = zoo.chain(recipe(), tmp_path / "out")

    table = zoo.read(pets)
    marked = running._rows(read_chain(recipe()), strict=False)
    model = zoo.build("timm:test_resnet?img_size=32", zoo.infer_heads(table), weights=None, seed=0)
    zoo.fit(model, marked, seed=0, **FIT)
    model.save(tmp_path / "first")
    model = zoo.load(tmp_path / "first")
    zoo.fit(model, marked, seed=0, **FIT | {"method": "fine_tuning", "lr": 0.01})

    assert [row.path for row in result.rows] == ["01-probe", "02-tune", "03-native"]
    assert [row.act for row in result.rows] == ["fit (feature_extraction)", "fit (fine_tuning)", "export"]
    left = zoo.load(tmp_path / "out" / "02-tune").state_dict()
    assert all(torch.equal(left[name], tensor) for name, tensor in model.state_dict().items())
    assert all(torch.equal(result.model.state_dict()[name], tensor) for name, tensor in left.items())
    expected = zoo.evaluate(model, marked, split="test", device="cpu")
    assert result.rows[1].metrics == pytest.approx(
        {f"{task}/{name}": value for task, found in expected.items() for name, value in found.items()}
    )
    assert result.rows[1].parameters == sum(p.numel() for p in model.parameters())
    assert result.rows[2].metrics == {}
    assert (tmp_path / "out" / "03-native" / "model.safetensors").is_file()
    assert sum(part == "test" for part in marked.split) == 8
    for path in ("01-probe", "02-tune"):
        assert zoo.verify(tmp_path / "out" / path).ok


@pytest.mark.slow
def test_a_chain_that_died_in_a_step_goes_on_there_and_ends_as_one_that_did_not(recipe, tmp_path, monkeypatch):
    whole = zoo.chain(recipe(), tmp_path / "whole")
    fits = []
    fit = zoo.fit

    def dying(model, rows, **options):
        fits.append(options["method"])
        if options["method"] == "fine_tuning" and len(fits) == 2:
            fit(model, rows, **options | {"epochs": 2}, patience=None)
            raise KeyboardInterrupt
        return fit(model, rows, **options)

    monkeypatch.setattr(zoo, "fit", dying)
    with pytest.raises(KeyboardInterrupt):
        zoo.chain(recipe(), tmp_path / "out")
    assert not (tmp_path / "out" / "02-tune").exists()
    assert list((tmp_path / "out" / ".02-tune.run").glob("checkpoint-*"))
    again = zoo.chain(recipe(), tmp_path / "out")

    assert fits == ["feature_extraction", "fine_tuning", "fine_tuning"]
    assert [row.metrics for row in again.rows] == [row.metrics for row in whole.rows]
    assert all(torch.equal(again.model.state_dict()[n], t) for n, t in whole.model.state_dict().items())
    assert not list((tmp_path / "out").glob(".*.run"))
    before = (tmp_path / "out" / "chain.json").read_text()
    assert zoo.chain(recipe(), tmp_path / "out").rows == again.rows
    assert (tmp_path / "out" / "chain.json").read_text() == before


@pytest.mark.slow
def test_a_chain_that_died_in_its_first_step_goes_on_there(recipe, tmp_path, monkeypatch):
    fit = zoo.fit

    def dying(model, rows, **options):
        fit(model, rows, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(zoo, "fit", dying)
    with pytest.raises(KeyboardInterrupt):
        zoo.chain(recipe(), tmp_path / "out")
    monkeypatch.setattr(zoo, "fit", fit)

    assert any(one.name.startswith(".01-probe") for one in (tmp_path / "out").iterdir())
    assert [row.path for row in zoo.chain(recipe(), tmp_path / "out").rows] == ["01-probe", "02-tune", "03-native"]


@pytest.mark.slow
def test_more_steps_may_be_added_behind_those_that_are_finished(recipe, tmp_path):
    steps = [{"name": "probe", "fit": FIT}]
    zoo.chain(recipe(steps=steps), tmp_path / "out")
    longer = zoo.chain(recipe(steps=[*steps, {"name": "more", "fit": FIT}]), tmp_path / "out")

    assert [row.name for row in longer.rows] == ["probe", "more"]


@pytest.mark.slow
def test_a_step_may_train_a_new_model_and_refer_to_an_earlier_bundle(recipe, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(zoo, "export", lambda model, folder, **options: (given.append(options), folder.mkdir()))
    steps = [
        {"name": "one", "fit": FIT},
        {"name": "two", "build": {"backbone": "timm:test_vit?img_size=32", "weights": "none"}, "fit": FIT},
        {"name": "out", "export": {"layout": "step:one"}},
    ]
    result = zoo.chain(recipe(steps=steps), tmp_path / "out")

    assert "test_vit" in zoo.load(tmp_path / "out" / "02-two").spec.streams["main"].backbone.reference
    assert given == [{"layout": str(tmp_path / "out" / "01-one")}]
    assert result.rows[1].parameters != result.rows[0].parameters


@pytest.mark.slow
def test_a_pruned_model_goes_on_and_only_training_rows_decide_what_goes(recipe, tmp_path, monkeypatch):
    steps = [
        {"name": "probe", "fit": FIT},
        {"name": "small", "prune": {"macs": 0.6, "importance": "taylor", "multiple_of": 1}},
        {"name": "again", "fit": {**FIT, "method": "fine_tuning", "epochs": 1}},
    ]
    seen, prune = [], zoo.prune
    monkeypatch.setattr(zoo, "prune", lambda model, **options: (seen.append(options), prune(model, **options))[1])
    result = zoo.chain(recipe(steps=steps), tmp_path / "out")

    assert (len(seen[0]["data"]), seen[0]["seed"], set(seen[0]["data"].split)) == (32, 0, {"train"})
    assert [row.act for row in result.rows] == ["fit (feature_extraction)", "prune", "fit (fine_tuning)"]
    assert result.rows[2].parameters == result.rows[1].parameters < 0.9 * result.rows[0].parameters
    assert result.rows[1].megabytes < result.rows[0].megabytes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": []}, "must have one step or more"),
        ({"steps": [{"name": "a b", "fit": {}}]}, "name must be letters"),
        ({"steps": [{"name": "a"}]}, r"must do one thing \(fit.*\), got none"),
        ({"steps": [{"name": "a", "fit": {}, "export": {}}]}, "got fit and export"),
        ({"steps": [{"name": "a", "fit": {}}, {"name": "a", "fit": {}}]}, "Two steps of the chain are called 'a'"),
        ({"steps": [{"name": "a", "fit": {"epoch": 3}}]}, "epochs"),
        ({"steps": [{"name": "a", "fit": {"checkpoint": "x"}}]}, "checkpoint"),
        ({"steps": [{"name": "a", "fit": {"method": "fine_tunin"}}]}, "fine_tuning"),
        ({"steps": [{"name": "a", "fit": {"settings": {"depth": 1}}}]}, "depth"),
        ({"steps": [{"name": "a", "export": {"layout": "step:b"}}]}, "refers to the step 'b'"),
        ({"steps": [{"name": "a", "data": "more", "export": {"layout": "timm"}}]}, "looks at no data"),
        ({"steps": [{"name": "a", "fit": {"lr": -1}}]}, r"step 'a' \(fit\): lr must be above 0, got -1"),
        ({"steps": [{"name": "a", "fit": {"augmentation": "lihgt"}}]}, "light"),
        ({"steps": [{"name": "a", "fit": {"checkpoint_every": 0}}]}, "checkpoint_every must be a whole number"),
        ({"steps": [{"name": "a", "prune": {"macs": 1.5}}]}, r"step 'a' \(prune\): macs must be a share"),
        ({"steps": [{"name": "a", "export": {}}]}, r"step 'a' \(export\): layout must be"),
        ({"test": 1.5}, "test must be a share"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"model": {"weights": "none"}}, "must have a backbone or streams"),
        ({"stepps": []}, "steps"),
    ],
)
def test_what_is_wrong_with_a_chain_is_said_before_anything_is_trained(recipe, tmp_path, changes, words):
    with pytest.raises(zoo.ZooError, match=words):
        zoo.chain(recipe(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_another_chain_or_a_folder_that_is_something_else_is_refused_and_left_alone(recipe, tmp_path):
    steps = [{"name": "probe", "fit": FIT}]
    zoo.chain(recipe(steps=steps), tmp_path / "out")
    other = [{"name": "probe", "fit": {**FIT, "epochs": 1}}]
    with pytest.raises(zoo.ConfigError, match="its step 1, 'probe', is finished and differs"):
        zoo.chain(recipe(steps=other), tmp_path / "out")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("mine")
    with pytest.raises(zoo.BundleError, match="holds something that is no chain"):
        zoo.chain(recipe(), tmp_path / "photos")
    assert (tmp_path / "photos" / "a.txt").read_text() == "mine"
    with claimed(tmp_path / "out", "chain"), pytest.raises(zoo.BundleError, match="Another chain runs in"):
        zoo.chain(recipe(steps=steps), tmp_path / "out")
    (tmp_path / "out" / "chain.json").write_text(json.dumps({"steps": [{"row": {}}]}))
    with pytest.raises(zoo.BundleError, match="cannot be read as the record"):
        zoo.chain(recipe(steps=steps), tmp_path / "out")
