"""The moving average of the weights, beside its closed form; and what a model that has one is judged and given by."""

import pytest
import torch

import zoo
from zoo.data import split_table
from zoo.training import engine
from zoo.training.engine import Engine
from zoo.training.judging.averaging import Averaging
from zoo.training.learning import learn_features
from zoo.training.rows.batches import SampleRows
from zoo.training.rows.targets import row_targets

PLAIN = {"method": "fine_tuning", "epochs": 2, "batch_size": 8, "lr": 0.01, "device": "cpu"}


@pytest.fixture
def steps(monkeypatch):
    """Copy the weights after each step, before anything else is done with them."""
    seen = []
    update = Averaging.update

    def spy(averaging):
        seen.append({key: value.clone() for key, value in averaging._model.state_dict().items()})
        update(averaging)

    monkeypatch.setattr(Averaging, "update", spy)
    return seen


def averaged(steps, decay):
    """Write the average out: after the first step the weights themselves, then the recursion."""
    parts = dict(steps[0])
    for weights in steps[1:]:
        for key, value in weights.items():
            mixed = value.is_floating_point() and "running_" not in key
            parts[key] = decay * parts[key] + (1 - decay) * value if mixed else value
    return parts


@pytest.mark.slow
@pytest.mark.parametrize("validation", [0.2, 0])
def test_the_model_ends_with_the_moving_average_of_its_weights(model, table, steps, validation):
    one = model()

    history = zoo.fit(one, table(), ema=0.7, validation=validation, **PLAIN)

    per_epoch = len(steps) // 2
    expected = averaged(steps[: per_epoch * history.best_epoch], 0.7)
    for key, value in one.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-6)
    last = steps[per_epoch * history.best_epoch - 1]
    assert any(not torch.equal(value, last[key]) for key, value in one.state_dict().items())


@pytest.mark.slow
def test_epochs_are_judged_by_the_average_and_training_goes_on_with_the_weights(model, table, monkeypatch, steps):
    judged, measure = [], engine.measure

    def spy(one, *rest, **more):
        judged.append({key: value.clone() for key, value in one.state_dict().items()})
        return measure(one, *rest, **more)

    monkeypatch.setattr(engine, "measure", spy)

    zoo.fit(model(), table(), ema=0.7, **PLAIN)

    half = len(steps) // 2
    for count, seen in ((half, judged[0]), (2 * half, judged[1])):
        expected = averaged(steps[:count], 0.7)
        for key, value in seen.items():
            torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_an_average_changes_nothing_of_the_training_itself(model, table, steps, monkeypatch):
    weights, train = [], Engine.train

    def spy(one, *args, **kwargs):
        result = train(one, *args, **kwargs)
        weights.append({key: value.clone() for key, value in one._zoo_model().state_dict().items()})
        return result

    monkeypatch.setattr(Engine, "train", spy)
    zoo.fit(model(), table(), ema=0.7, **PLAIN)
    zoo.fit(model(), table(), **PLAIN)

    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


@pytest.mark.slow
def test_what_never_trains_is_not_averaged(model, table, state, same):
    one = model()
    before = state(one, "backbones.")

    zoo.fit(one, table(), ema=0.7, **{**PLAIN, "method": "feature_extraction"})

    assert same(before, state(one, "backbones."))


@pytest.mark.slow
def test_heads_that_learn_from_features_learn_from_those_of_the_average(model, table):
    head = {"type": "prototype", "name": "kind", "classes": ["a", "b"]}
    one, data = model(head), table()

    zoo.fit(one, data, ema=0.5, **{**PLAIN, "lr": 0.1})

    learnt = one.heads["kind"].state_dict()["prototypes"].clone()
    parts = split_table(data, fractions={"train": 0.8, "validation": 0.2}, seed=0, stratify=["kind"])
    targets = row_targets(one, parts["train"], {"kind": "kind"})
    learn_features(
        one, SampleRows(one, parts["train"], targets), batch_size=8, place=torch.device("cpu")
    )  # from the weights that the model has now
    assert torch.equal(learnt, one.heads["kind"].state_dict()["prototypes"])
