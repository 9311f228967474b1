"""Metrics of a model on data, against scikit-learn on its predictions."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

import zoo
from zoo.errors import ConfigError, DataError, UnknownName

HEADS = (
    {"type": "classifier", "name": "kind", "classes": ["a", "b"]},
    {"type": "regression", "name": "size"},
)


def labels(rows=40):
    rng = np.random.default_rng(0)
    kinds = [None if rng.random() < 0.3 else "ab"[int(rng.random() < 0.6)] for _ in range(rows)]
    sizes = [None if rng.random() < 0.3 else float(rng.normal()) for _ in range(rows)]
    return {"kind": ("text", kinds), "size": ("number", sizes)}


@pytest.mark.parametrize("batch_size", [7, 40])
def test_metrics_are_scikit_learns_on_the_predictions(model, table, draw, batch_size):
    one, columns = model(*HEADS), labels()

    found = zoo.evaluate(one, table(**columns), batch_size=batch_size, device="cpu")

    told = one.predict(draw())
    kinds = [(true, row["kind"].label) for true, row in zip(columns["kind"][1], told, strict=True) if true]
    sizes = [(true, row["size"].value) for true, row in zip(columns["size"][1], told, strict=True) if true is not None]
    assert found["kind"] == pytest.approx(
        {
            "accuracy": sk.accuracy_score(*zip(*kinds, strict=True)),
            "balanced_accuracy": sk.balanced_accuracy_score(*zip(*kinds, strict=True)),
            "f1": sk.f1_score(*zip(*kinds, strict=True), average="macro"),
        },
        abs=1e-6,
    )
    assert found["size"] == pytest.approx(
        {
            "mae": sk.mean_absolute_error(*zip(*sizes, strict=True)),
            "rmse": sk.root_mean_squared_error(*zip(*sizes, strict=True)),
        },
        rel=1e-5,
    )


def test_only_the_rows_of_a_split_are_measured(model, table):
    split = ["test" if n < 10 else None if n < 20 else "train" for n in range(40)]
    data = table(split=split)
    one = model()

    found = zoo.evaluate(one, data, split="test", device="cpu")

    assert found == zoo.evaluate(one, data.select(range(10)), device="cpu")


@pytest.mark.parametrize(("split", "have"), [(["train"] * 40, "its splits are train"), (None, "its splits are none")])
def test_a_split_without_rows_is_refused(model, table, split, have):
    with pytest.raises(DataError, match=f"has no rows in the split 'test'; {have}"):
        zoo.evaluate(model(), table(split=split), split="test", device="cpu")


def test_a_task_without_any_label_has_no_entry(model, table):
    columns = labels() | {"size": ("number", [None] * 40)}

    found = zoo.evaluate(model(*HEADS), table(**columns), device="cpu")

    assert set(found) == {"kind"}


def test_measuring_changes_nothing(model, table, state, same):
    one = model().train()
    before = state(one)

    zoo.evaluate(one, table(rows=16), device="cpu")

    assert same(before, state(one))
    assert one.training


def test_a_label_outside_the_classes_is_refused(model, table):
    with pytest.raises(DataError, match="knows no class 'c'"):
        zoo.evaluate(model(), table(kind=("text", ["a", "b", "c", "a"] * 10)), device="cpu")


def test_a_column_that_is_not_there_is_refused(model, table):
    with pytest.raises(UnknownName, match="looks for the label column 'size'"):
        zoo.evaluate(model(*HEADS), table(kind=labels()["kind"]), device="cpu")


@pytest.mark.parametrize(
    ("settings", "sentence"), [({"batch_size": 0}, "batch_size must be 1"), ({"device": "gpu"}, "device must be auto")]
)
def test_a_setting_that_cannot_be_used_is_one_sentence(model, table, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        zoo.evaluate(model(), table(), **settings)


def test_the_loss_of_a_data_set_is_its_mean_over_batches_of_any_size(model, table):
    from torch.utils.data import DataLoader

    from zoo.training.judging.evaluation import measure
    from zoo.training.rows.batches import Collator, SampleRows

    one, data = model(), table()
    targets = {"kind": one.task("kind").encode(data.column("kind").values)}
    cpu = torch.device("cpu")

    losses = [
        measure(
            one,
            DataLoader(SampleRows(one, data, targets), batch_size=size, collate_fn=Collator(one.preparers())),
            lambda batch: one(batch["inputs"]),
            cpu,
        )[0]
        for size in (7, 40)
    ]

    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
