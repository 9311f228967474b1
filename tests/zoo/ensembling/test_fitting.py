"""Weights fitted on validation data through the whole chain: table, members, task, weights."""

import numpy as np
import pytest
import torch

import zoo
from zoo.errors import ConfigError, DataError


@pytest.fixture
def models(member):
    return [member(seed=seed) for seed in range(3)]


def loss(made, data):
    pictures = torch.stack([sample.open() for sample in data.inputs["image"]])
    targets = {name: task.encode(data.column(name).values) for name, task in made.tasks().items()}
    with torch.no_grad():
        return {name: float(value) for name, value in made.losses(made(pictures), targets).items()}


@pytest.mark.parametrize("combine", ["weighted", "stacking"])
def test_fitting_makes_the_loss_less_than_that_of_the_mean_for_each_task(models, table, combine):
    data = table()

    made = zoo.ensemble(models, combine).fit(data)

    fitted, mean = loss(made, data), loss(zoo.ensemble(models), data)
    assert fitted["pet"] < mean["pet"]
    assert fitted["age"] < mean["age"]
    assert made.provenance["fitted"]["rows"] == 24


@pytest.mark.slow
def test_greedy_selection_is_no_worse_than_the_best_member(models, table):
    data = table()
    alone = [zoo.evaluate(model, data) for model in models]

    made = zoo.ensemble(models, "greedy").fit(data, rounds=6, start=1)

    found = zoo.evaluate(made, data)
    assert found["pet"]["balanced_accuracy"] >= max(one["pet"]["balanced_accuracy"] for one in alone)
    assert found["age"]["mae"] <= min(one["age"]["mae"] for one in alone) + 1e-6
    for weights in made.spec.weights.values():
        assert sum(weights) == pytest.approx(1)


def test_permuted_classes_are_fitted_alike(member, models, table):
    other = member(seed=2, classes=["owl", "cat", "dog"])
    other.load_state_dict(models[2].state_dict())
    layer = models[2].heads["pet"].layers.state_dict()
    other.heads["pet"].layers.load_state_dict({key: value[[2, 0, 1]] for key, value in layer.items()})

    found = zoo.ensemble([*models[:2], other], "weighted").fit(table())

    expected = zoo.ensemble(models, "weighted").fit(table())
    np.testing.assert_allclose(found.spec.weights["pet"], expected.spec.weights["pet"], atol=1e-4)


@pytest.mark.slow
def test_only_validation_rows_are_used(models, table):
    split = ["train" if n < 12 else "validation" for n in range(24)]
    data = table(split=tuple(split))
    part = table().select(range(12, 24))

    made = zoo.ensemble(models, "weighted").fit(data)

    assert made.spec.weights == zoo.ensemble(models, "weighted").fit(part).spec.weights
    assert made.provenance["fitted"]["rows"] == 12
    assert zoo.ensemble(models, "weighted").fit(data, split="train").spec.weights != made.spec.weights


def test_data_without_validation_rows_is_refused(models, table):
    with pytest.raises(DataError, match="no rows in the split 'validation'; its splits are train"):
        zoo.ensemble(models, "weighted").fit(table(split=("train",) * 24))


@pytest.mark.slow
def test_rows_without_a_label_do_not_count(models, table):
    data = table()
    pets, ages = list(data.column("pet").values), list(data.column("age").values)
    pets[5:12], ages[:3] = [None] * 7, [None] * 3
    partial = table(pet=("text", pets), age=("number", ages))

    found = zoo.ensemble(models, "weighted").fit(partial).spec.weights

    pet = zoo.ensemble(models, "weighted").fit(data.select([*range(5), *range(12, 24)])).spec.weights["pet"]
    assert found["pet"] == pytest.approx(pet, abs=1e-5)
    with pytest.raises(DataError, match="no label of 'pet'"):
        zoo.ensemble(models, "weighted").fit(table(pet=("text", [None] * 24), age=("number", ages)))


@pytest.mark.parametrize(
    ("combine", "settings", "words"),
    [
        ("mean", {}, "has nothing to fit; those that have are weighted, greedy, stacking"),
        ("weighted", {"rounds": 3}, "rounds is of combine='greedy'"),
        ("greedy", {"strength": 1.0}, "strength is of combine='stacking'"),
        ("greedy", {"rounds": 0}, "rounds must be a whole number, 1 or more, got 0"),
        ("greedy", {"start": 4}, "start must be a whole number, 1 to 3, got 4"),
        ("stacking", {"strength": 0}, "strength must be a number above 0"),
        ("stacking", {"batch_size": 0}, "batch_size"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_data_is_read(models, combine, settings, words):
    with pytest.raises(ConfigError, match=words):
        zoo.ensemble(models, combine).fit("no such data", **settings)


def test_members_are_untouched_and_stay_in_their_place(models, table):
    before = [{key: value.clone() for key, value in model.state_dict().items()} for model in models]

    zoo.ensemble(models, "stacking").fit(table())

    for model, state in zip(models, before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
