"""``method="auto"``: the advice is followed, what the user says goes over it, and both are written down."""

import inspect
import json
import logging
import shutil

import pytest
import torch

import zoo
from zoo.advising.fitting import fit
from zoo.errors import DataError, UnknownName
from zoo.training import fitting


@pytest.mark.slow
def test_auto_follows_the_advice_and_says_so(model, table, caplog):
    one, rows = model(table()), table()
    advice = zoo.advise(model(table()), rows, probe=False, device="cpu")

    with caplog.at_level(logging.INFO, logger="zoo"):
        history = zoo.fit(one, rows, method="auto", epochs=2, device="cpu")

    expected = {**advice.fit(), "epochs": 2}
    assert history.method == advice.method
    assert {name: history.settings[name] for name in expected if name not in ("method", "augmentation")} == {
        name: value for name, value in expected.items() if name not in ("method", "augmentation")
    }
    assert history.advice["chosen"] == expected
    assert history.advice["advised"]["fit"] == advice.fit()
    told = [record.getMessage() for record in caplog.records]
    assert any(line.startswith(f"Advised, since the data is {advice.quadrant}") for line in told)
    assert "Yours go over it: epochs 2." in told
    assert json.loads(json.dumps(history.as_json()))["advice"]["chosen"]["epochs"] == 2


@pytest.mark.slow
def test_the_bundle_keeps_what_was_advised_and_chosen(model, table, tmp_path):
    one = model(table())

    zoo.fit(one, table(), method="auto", epochs=1, lr=0.01, device="cpu")
    kept = zoo.load(one.save(tmp_path / "bundle")).provenance["advice"]

    assert kept["chosen"]["lr"] == 0.01
    assert kept["advised"]["settings"]["lr"] != 0.01
    assert kept["advised"]["quadrant"] in ("small and similar", "small and different")


@pytest.mark.slow
def test_any_other_method_goes_straight_to_training(model, table):
    history = zoo.fit(model(table()), table(), method="feature_extraction", epochs=1, device="cpu")

    assert history.advice is None
    with pytest.raises(UnknownName):
        zoo.fit(model(table()), table(), method="otto")


@pytest.mark.slow
def test_a_setting_that_the_advised_method_does_not_have_is_named(model, table):
    with pytest.raises(UnknownName, match="has no option 'decay'"):
        zoo.fit(model(table()), table(), method="auto", decay=0.5, device="cpu")


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_under_the_same_advice(model, table, tmp_path):
    rows, run = table(), {"method": "auto", "epochs": 4, "device": "cpu"}
    whole, again = model(rows), model(rows)
    history = zoo.fit(whole, rows, **run, checkpoint=tmp_path / "run", keep_checkpoints=4)
    for late in sorted((tmp_path / "run").glob("checkpoint-*"))[2:]:
        shutil.rmtree(late)

    resumed = zoo.fit(again, rows, **run, checkpoint=tmp_path / "run", resume=True)

    assert resumed.advice["chosen"] == history.advice["chosen"]
    assert [row.train_loss for row in resumed.epochs] == [row.train_loss for row in history.epochs]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_what_cannot_be_judged_is_not_trained(model, table):
    rows = table(40, kind=("text", ["a"] * 39 + ["b"]))
    one = model(rows, heads=[zoo.head("classifier", name="kind", classes=["a", "b"])])
    before = [parameter.clone() for parameter in one.parameters()]

    with pytest.raises(DataError, match="two classes or more"):
        zoo.fit(one, rows, method="auto", device="cpu")

    assert all(bool((a == b).all()) for a, b in zip(before, one.parameters(), strict=True))


def test_the_face_of_fit_is_that_of_training():
    assert zoo.fit is fit
    assert inspect.signature(fit) == inspect.signature(fitting.fit)
    assert fit.__doc__ == fitting.fit.__doc__
