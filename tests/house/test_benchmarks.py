"""The benchmarks still run: each is asked for the least that it can do."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def script(name: str, monkeypatch: pytest.MonkeyPatch):
    """Import a script under a name of its own; one is called as a package is."""
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_it_can_be_imported_and_starts_nothing(path, monkeypatch, capsys):
    script(path.stem, monkeypatch)

    assert capsys.readouterr().out == ""


def test_the_sweep_tells_what_is_served_from_what_is_refused_and_from_what_is_wrong(monkeypatch):
    sweep = script("coverage", monkeypatch)

    served = sweep.ask("timm", "test_resnet", "ours", 0)["ours"]["timm:test_resnet"]
    refused = sweep.ask("torchvision", "raft_large", "ours", 0)["ours"]["torchvision:raft_large"]
    values = sweep.ask("timm", "test_vit", "values", 1e9)["values"]

    assert served["ok"]
    assert [stage[0] for stage in served["maps"]] == ["stem", "s1", "s2", "s3", "s4"]
    assert not refused["ok"]
    assert "is not served" in refused["reason"]
    assert values == {"ok": True, "compared": True, "parameters": values["parameters"]}


def test_the_table_counts_and_names_each_failure_with_its_reason(monkeypatch):
    table = script("coverage_table", monkeypatch).table
    good = {"ok": True, "maps": [["s1", 8, 4.0]], "tokens": None, "preprocessing": True, "modality": "image"}
    rows = [
        {"sweep": "timm ours", "name": "a", "ours": {"timm:a": good}},
        {"sweep": "timm ours", "name": "b", "ours": {"timm:b": {"ok": False, "reason": "KeyError: b"}}},
        {"sweep": "timm ours", "name": "c", "died": "the worker ended"},
        *(
            {
                "sweep": "timm ours",
                "name": n,
                "ours": {f"timm:{n}": {"ok": False, "reason": f"UnknownName: timm:{n} {s}"}},
            }
            for n, s in (("d", "is not served: it is old."), ("e", "is not served: it is old."))
        ),
        {"sweep": "timm peers", "name": "a", "smp": {"ok": False, "reason": "x"}, "features_only": {"ok": True}},
    ]

    text = table(rows)

    assert "1 of 5 (20.0%)" in text
    assert "| KeyError: b | `b` |" in text
    assert "| the worker ended | `c` |" in text
    assert "| it is old | `d`, `e` |" in text
    assert "| timm `features_only`: NCHW maps | 1 of 1 (100.0%) |" in text


def test_the_table_of_methods_says_how_far_the_advised_one_is_behind_the_best(monkeypatch, capsys):
    methods = script("methods", monkeypatch)
    found = {"feature_extraction": 0.70, "partial": 0.695, "discriminative": 0.68, "fine_tuning": 0.66, "auto": 0.675}
    rows = [
        {
            "rows": "120",
            "seed": seed,
            "method": name,
            "accuracy": accuracy + 0.01 * seed,
            "seconds": 2.0,
            "parameters": 10,
            "used": "partial" if name == "auto" else name,
        }
        for name, accuracy in found.items()
        for seed in (0, 1)
    ]

    methods.show(rows, ["120"])

    told = capsys.readouterr().out
    assert "| 120 | partial | 0.7000 (0.0071) | 2 | 10 | 2 |" in told
    assert "auto behind feature_extraction | +0.0250, NOT within a point; as plain method: partial +0.0050" in told


@pytest.mark.slow
def test_the_cells_of_the_benchmark_are_drawn_by_the_seed_beside_one_test_split(monkeypatch):
    methods = script("methods", monkeypatch)
    table = methods.cells()

    drawn = [methods.some_of(table, 120, seed) for seed in (0, 0, 1)]

    names = [[sample.name for sample in one.samples("image")] for one in drawn]
    tested = [
        {n for n, part in zip(held, one.split, strict=True) if part == "test"}
        for held, one in zip(names, drawn, strict=True)
    ]
    assert names[0] == names[1] != names[2]
    assert tested[0] == tested[2]
    assert [one.split.count("train") for one in drawn] == [120, 120, 120]
    assert methods.epochs_for(drawn[0]) == 60
    assert methods.epochs_for(table) == 20
