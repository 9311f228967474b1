"""Few shots: how many rows of each class are drawn, and that nothing else of a run changes."""

import pytest

import zoo
from zoo.training.judging.history import History
from zoo.training.rows.shots import drawn_shots, shots_task

RUN = {"method": "feature_extraction", "epochs": 1, "batch_size": 4, "device": "cpu"}


def names(table):
    return [sample.name for sample in table.inputs["image"]]


@pytest.mark.slow
def test_a_run_of_shots_trains_on_so_many_rows_of_each_class_and_is_judged_on_all_others(model, table, tmp_path):
    history = zoo.fit(model(), table(rows=40), shots=3, **RUN)

    assert isinstance(history, History)
    assert history.rows == {"train": 6, "validation": 8}
    assert history.settings["shots"] == 3
    assert zoo.fit(model(), table(rows=40), **RUN).rows == {"train": 32, "validation": 8}


@pytest.mark.parametrize("method", ["fine_tuning", "gradual_unfreezing", "linear_probe_then_finetune"])
def test_any_method_takes_shots(model, table, method):
    assert zoo.fit(model(), table(rows=20), shots=2, **RUN | {"method": method, "epochs": 2}).rows["train"] == 4


def test_rows_are_drawn_by_the_seed_from_those_with_a_label(model, table):
    labels = [None if n < 6 else "ab"[n % 2] for n in range(30)]
    whole, parts = model(), {"train": table(kind=("text", labels), rows=30), "validation": table(rows=2)}

    def drawn(seed, shots=4):
        return drawn_shots(whole, parts, {"kind": "kind"}, "kind", shots, seed)

    first = drawn(0)
    rows = [int(name.removeprefix("picture ")) for name in names(first["train"])]
    assert rows == sorted(set(rows))
    assert min(rows) >= 6
    assert sorted(first["train"].column("kind").values) == ["a"] * 4 + ["b"] * 4
    assert names(drawn(0)["train"]) == names(first["train"])
    assert names(drawn(1)["train"]) != names(first["train"])
    assert first["validation"] is parts["validation"]


def test_a_class_with_too_few_rows_is_named(model, table):
    data = table(rows=20, kind=("text", ["a"] * 17 + ["b"] * 3))
    with pytest.raises(zoo.DataError, match=r"shots=5 needs as many .* of each class of 'kind', and 'b' has"):
        zoo.fit(model(), data, shots=5, **RUN)
    with pytest.raises(zoo.DataError, match="'c' has 0"):
        zoo.fit(model(classes=["a", "b", "c"]), table(rows=20), shots=2, **RUN)


def test_the_task_that_decides_is_the_one_whose_classes_count(model):
    two = [zoo.head("classifier", name=name, classes=["a", "b"]) for name in ("kind", "side")]
    number = zoo.head("regression", name="age")

    assert shots_task(model(*two), 5, "side/accuracy") == "side"
    assert shots_task(model(two[0], number), 5, "loss") == "kind"
    assert shots_task(model(*two), None, "loss") is None
    with pytest.raises(zoo.ConfigError, match="of such it has kind, side; choose one by select='task/metric'"):
        shots_task(model(*two), 5, "loss")
    with pytest.raises(zoo.ConfigError, match="of such it has none"):
        shots_task(model(number), 5, "loss")


@pytest.mark.parametrize("shots", [0, -1, 2.0, True, "5"])
def test_shots_that_are_no_number_are_refused_before_data_is_read(model, shots):
    with pytest.raises(zoo.ConfigError, match="shots must be a whole number, 1 or more"):
        zoo.fit(model(), "nowhere", shots=shots, **RUN)
