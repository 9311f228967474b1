"""``zoo demo`` hands its options to the demo; the demo itself is tested in its own room."""

import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.mark.parametrize(
    ("argv", "called"),
    [
        ((), (Path("demo"), {"seed": 0})),
        (("--out", "here", "--epochs", "3", "--seed", "7"), (Path("here"), {"seed": 7, "epochs": 3})),
    ],
)
def test_the_options_are_passed_on_and_nothing_else(zoo, monkeypatch, argv, called):
    calls = []
    fake = ModuleType("zoo.report.demo")
    fake.run_demo = lambda out, **options: calls.append((out, options)) or {"seconds": 1.5}
    monkeypatch.setitem(sys.modules, "zoo.report.demo", fake)

    plain, told = zoo("demo", *argv), zoo("demo", *argv, "--json")

    assert (plain.code, plain.out) == (0, "")
    assert told.json == {"seconds": 1.5}
    assert calls == [called, called]
