"""Learning without labels on real data: a linear probe and k-NN on the backbone, before and after.

2,624 photographs of solar cells (elpv-dataset), intact or defect. A fifth is kept for the test, drawn once. From the
others, of which no label is looked at, a small network with random weights learns by each scheme; then its features of
all rows are kept, and a logistic regression (its strength chosen by three folds of the training rows) and the 20
nearest neighbours by cosine learn the labels from them. ``random`` is the same network before training. Accuracies are
balanced: the mean over both classes, 0.5 for guessing.

    python benchmarks/methods/self_supervised.py                                  # all schemes, three seeds
    python benchmarks/methods/self_supervised.py --how simclr --rows 600 --epochs 4
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from solar_cells import cells, sized

import zoo
from zoo.data import Table

HOWS = ("simclr", "byol", "simsiam", "barlow_twins", "dino")
RANDOM = "random"
NEIGHBOURS = 20
NEAR: dict[str, Any] = {
    **{"scale": (0.4, 1.0), "flip": 0.5, "vertical_flip": 0.5},
    **{"brightness": 0.4, "contrast": 0.4, "jitter": 0.8, "blur": 0.3, "sigma": (0.1, 1.0)},
}
"""Views for photographs in grey that have no up and down, whose defects are small."""


def data_of(side: int, rows: int | None) -> tuple[Table, Table, np.ndarray, np.ndarray]:
    """Read the photographs at a size; the first table is for training, and none of its labels is in it."""
    table = cells(side, rows)
    assert table.split is not None
    parts = [
        table.select([row for row, part in enumerate(table.split) if part == name]).with_split(None)
        for name in ("train", "test")
    ]
    train, test = (replace(part, columns={}) for part in parts)
    known, asked = (np.asarray(part.column("defect").values) for part in parts)
    return train, test, known, asked


@torch.no_grad()
def features(model: zoo.Model, table: Table) -> np.ndarray:
    """Give the pooled vectors of all rows."""
    rows = [{"image": sample} for sample in table.samples("image")]
    found = []
    place = next(model.parameters()).device
    for start in range(0, len(rows), 128):
        batch = model.preprocess(rows[start : start + 128])
        moved = {name: tensor.to(place) for name, tensor in batch.items()}
        pooled = model.features(moved)["main"].pooled
        assert pooled is not None
        found.append(pooled.float().cpu().numpy())
    return np.concatenate(found)


def measured(model: zoo.Model, train: Table, test: Table, known: np.ndarray, asked: np.ndarray) -> dict[str, float]:
    """Give the balanced accuracy of a linear probe and of k-NN on the test rows."""
    learnt, given = features(model, train), features(model, test)
    linear = make_pipeline(
        StandardScaler(),
        LogisticRegressionCV(
            Cs=np.logspace(-4, 1, 6), cv=3, scoring="balanced_accuracy", class_weight="balanced", max_iter=2000,
            l1_ratios=(0,), use_legacy_attributes=False,
        ),
    )  # fmt: skip
    near = KNeighborsClassifier(NEIGHBOURS, metric="cosine")
    return {
        "linear": float(balanced_accuracy_score(asked, linear.fit(learnt, known).predict(given))),
        "knn": float(balanced_accuracy_score(asked, near.fit(learnt, known).predict(given))),
    }


def run(how: str, seed: int, given: argparse.Namespace, data: tuple[Table, Table, np.ndarray, np.ndarray]) -> Any:
    """Train one network, or none, and measure it."""
    train, test, known, asked = data
    model, started, told = sized(given.backbone, [], given.size, weights=None, seed=seed), time.perf_counter(), {}
    if how != RANDOM:
        settings: dict[str, Any] = {"how": how, "hidden": given.hidden}
        if given.views != "standard":
            settings["views"] = NEAR
        if how == "dino":
            settings["small_views"] = given.small_views
        history = zoo.fit(
            model, train, method="self_supervised", epochs=given.epochs, batch_size=given.batch_size, lr=given.lr,
            seed=seed, device=given.device, weight_decay=1e-4, **settings,
        )  # fmt: skip
        told = history.epochs[-1].measures
    seconds = time.perf_counter() - started
    return {"how": how, "seed": seed, **measured(model, train, test, known, asked), **told, "seconds": seconds}


def spoken(rows: list[dict[str, Any]], name: str, digits: int = 3) -> str:
    values = [row[name] for row in rows if name in row]
    if not values:
        return ""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}"


def table(rows: list[dict[str, Any]]) -> str:
    """Write the means and standard deviations over seeds as Markdown."""
    lines = ["| how | linear probe | k-NN | spread | rank | seconds |", "|---|---|---|---|---|---|"]
    for how in dict.fromkeys(row["how"] for row in rows):
        own = [row for row in rows if row["how"] == how]
        told = (spoken(own, "linear"), spoken(own, "knn"), spoken(own, "spread", 2), spoken(own, "rank", 1))
        lines.append(f"| {how} | {' | '.join(told)} | {statistics.mean(row['seconds'] for row in own):.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--how", nargs="+", choices=HOWS, default=list(HOWS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--backbone", default="timm:test_resnet")
    parser.add_argument("--size", type=int, default=64, help="side of a view in pixels")
    parser.add_argument("--rows", type=int, default=None, help="training rows; all by default")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--small-views", type=int, default=2)
    parser.add_argument("--views", choices=("near", "standard"), default="near")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    data = data_of(given.size + given.size // 4, given.rows)
    rows = []
    for how in (RANDOM, *given.how):
        for seed in range(given.seeds):
            rows.append(run(how, seed, given, data))
            print(json.dumps(rows[-1]), flush=True)
    print(
        f"\n{len(data[0])} pictures without labels, {given.epochs} epochs, {given.backbone} at {given.size} px, "
        f"{given.views} views, {given.seeds} seeds\n"
    )
    print(table(rows))


if __name__ == "__main__":
    main()
