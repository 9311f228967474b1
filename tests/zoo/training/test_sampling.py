"""Class-balanced sampling: the chances in closed form, what is drawn, and by which task."""

from __future__ import annotations

import pytest
import torch

import zoo
from zoo.errors import ConfigError
from zoo.training.rows import batches
from zoo.training.rows.sampling import BalancedRows, balanced_task, row_weights

RUN = {"epochs": 2, "batch_size": 8, "device": "cpu"}


def test_classes_have_equal_chances_and_rows_without_a_label_their_own():
    target = torch.tensor([0] * 6 + [2] * 2 + [-100] * 2)
    chances = row_weights(target)

    assert float(chances.sum()) == pytest.approx(1)
    assert [float(chances[target == label].sum()) for label in (0, 2, -100)] == pytest.approx([0.4, 0.4, 0.2])
    assert torch.allclose(row_weights(torch.full((4,), -100)), torch.full((4,), 0.25).double())


def test_the_rows_of_an_epoch_are_drawn_by_these_chances_and_by_the_seed_and_the_epoch_alone():
    target = torch.tensor([0] * 900 + [1] * 100)
    rows = BalancedRows.of("kind", {"kind": target}, seed=3)
    first, again = list(rows), list(rows)
    rows.set_epoch(1)
    second = list(rows)

    assert len(first) == 1000
    assert first == again == list(BalancedRows.of("kind", {"kind": target}, seed=3))
    assert first != second
    assert first != list(BalancedRows.of("kind", {"kind": target}, seed=4))
    for drawn in (first, second):  # five standard deviations of a binomial
        assert abs(int(target[drawn].sum()) - 500) < 5 * (1000 * 0.25) ** 0.5


@pytest.mark.slow
def test_a_run_draws_other_rows_in_each_epoch_and_the_same_for_equal_seeds(model, table, state, monkeypatch):
    labels = ["a"] * 36 + ["b"] * 4
    seen = []
    collate = batches.Collator.__call__

    def noted(self, rows):
        made = collate(self, rows)
        seen.extend(made["targets"]["kind"].tolist())
        return made

    monkeypatch.setattr(batches.Collator, "__call__", noted)
    runs = []
    for _ in range(2):
        one = model()
        seen.clear()
        history = zoo.fit(
            one, table(kind=("text", labels)), method="fine_tuning", validation=0.0, sampling="balanced", **RUN
        )
        runs.append((state(one), list(seen)))

    assert runs[0][1] == runs[1][1]
    assert all(torch.equal(runs[0][0][key], value) for key, value in runs[1][0].items())
    first, second = runs[0][1][:40], runs[0][1][40:80]
    assert first != second
    assert 10 <= sum(first) <= 30
    assert 10 <= sum(second) <= 30
    assert history.settings["sampling"] == "balanced"


def test_the_only_task_of_classes_is_balanced_or_the_one_that_is_named(model):
    kind = {"type": "classifier", "name": "kind", "classes": ["a", "b"]}
    age = {"type": "regression", "name": "age"}
    many = {"type": "classifier", "name": "tags", "classes": ["a", "b"], "multi_label": True}
    colour = {**kind, "name": "colour"}

    assert balanced_task(model(kind, age, many), "balanced") == "kind"
    assert balanced_task(model(kind, colour), "balanced/colour") == "colour"
    assert balanced_task(model(kind, colour), None) is None


@pytest.mark.parametrize(
    ("heads", "sampling", "words"),
    [
        (("kind", "colour"), "balanced", "there are several: balanced/kind, balanced/colour; got 'balanced'"),
        (("kind",), "balanced/age", "balanced/kind; got 'balanced/age'"),
        (("kind",), "balancd", "balanced/kind; got 'balancd'"),
        (("age",), "balanced", "none of this model's tasks, which learn no classes"),
        (("kind",), 3, "sampling must be 'balanced' or 'balanced/task'"),
    ],
)
def test_what_cannot_be_balanced_is_refused_before_the_data_is_read(model, heads, sampling, words):
    known = {
        "kind": {"type": "classifier", "name": "kind", "classes": ["a", "b"]},
        "colour": {"type": "classifier", "name": "colour", "classes": ["a", "b"]},
        "age": {"type": "regression", "name": "age"},
    }
    with pytest.raises(ConfigError, match=words):
        zoo.fit(model(*(known[name] for name in heads)), "no such folder", sampling=sampling)
