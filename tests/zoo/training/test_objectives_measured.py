"""What an objective measures in an epoch stands in the history, its files and the log; and rows that it needs not."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from typing import ClassVar

import pytest

import zoo
from zoo.contracts.method import Plan, StageState
from zoo.registry import registry

RUN = {"method": "measuring", "epochs": 2, "batch_size": 4, "lr": 0.01, "device": "cpu"}


class Measuring(zoo.Objective):
    """The heads' losses, with the number of steps of each epoch."""

    steps = 0

    def losses(self, model, batch):
        self.steps += 1
        return batch.losses

    def epoch_ended(self):
        counted, self.steps = self.steps, 0
        return {"steps": counted}


class Viewing(Measuring):
    """Something of views alone."""

    passes = False
    views = (None,)


@pytest.fixture
def measuring(monkeypatch):
    """Give the method an objective of the test's."""

    def enter(kind):
        @dataclass(frozen=True)
        class Method(zoo.Method):
            summary: ClassVar[str] = "measures"

            def objective(self, model, *, seed=0):
                return kind()

            def plan(self, streams, *, epochs, lr):
                state = StageState(trainable=True, lr=lr)
                names = [f"{stream}.{stage.name}" for stream, one in streams.items() for stage in one.stages]
                return Plan(epochs=(dict.fromkeys([*names, "heads"], state),) * epochs)

        known = registry().method_class
        monkeypatch.setattr(registry(), "method_class", lambda name: Method if name == "measuring" else known(name))

    return enter


@pytest.mark.slow
@pytest.mark.parametrize("validation", [0.0, 0.25])
def test_what_an_objective_measures_stands_in_the_history_its_files_and_the_log(
    model, table, measuring, tmp_path, caplog, validation
):
    measuring(Measuring)
    caplog.set_level("INFO", "zoo")
    history = zoo.fit(model(), table(rows=16), validation=validation, checkpoint=tmp_path, **RUN)
    steps = 16 * (1 - validation) / 4

    assert [row.measures for row in history.epochs] == [{"steps": steps}] * 2
    assert sum(f"steps {steps:.0f}" in line for line in caplog.messages) == 2
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["measures"] for line in lines] == [{"steps": steps}] * 2
    with (tmp_path / "history.csv").open() as file:
        assert [float(row["steps"]) for row in csv.DictReader(file)] == [steps] * 2


def test_a_run_without_an_objective_measures_nothing(model, table):
    history = zoo.fit(model(), table(rows=8), **RUN | {"method": "fine_tuning", "epochs": 1})

    assert history.epochs[0].measures == {}


def test_an_augmentation_of_rows_that_no_step_sees_is_refused(model, measuring):
    measuring(Viewing)
    with pytest.raises(zoo.ConfigError, match="augmentation varies rows that are no part of what"):
        zoo.fit(model(), "nowhere", augmentation="light", **RUN)
