"""Training: a step of zoo.fit against a step of a plain PyTorch loop with the same model, rows and settings.

Both fine-tune by AdamW with the same groups, warm-up and cosine, clipped gradients, fp32, rows in memory and no
validation. A run of few epochs is taken off a run of more, so that neither start nor end counts; the four runs of a
round follow one another, and the ratio of processor times is the median over rounds. The last loss of both is printed
too: the work is the same.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import zoo
from zoo.data import Column, Table, TensorSample

CLASSES = ["a", "b"]
LR, DECAY, WARMUP = 1e-3, 0.01, 0.05


def rows(count: int, pixels: int) -> tuple[Tensor, Tensor]:
    """Make noise of two kinds that differ in brightness."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.arange(count) % 2
    return torch.randn(count, 3, pixels, pixels, generator=generator) + kinds[:, None, None, None], kinds


def made(reference: str) -> zoo.Model:
    return zoo.build(reference, zoo.head("classifier", name="kind", classes=CLASSES), weights=None, seed=0)


def ours(reference: str, images: Tensor, kinds: Tensor, epochs: int, batch: int) -> float:
    """Train by zoo.fit; give the last epoch's mean loss."""
    samples = tuple(TensorSample(str(number), image) for number, image in enumerate(images))
    table = Table("noise", {"image": samples}, {"kind": Column("kind", "text", tuple(CLASSES[k] for k in kinds))})
    run: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch,
        "lr": LR,
        "weight_decay": DECAY,
        "warmup": WARMUP,
        "validation": 0,
    }
    return zoo.fit(made(reference), table, method="fine_tuning", device="cpu", **run).epochs[-1].train_loss


def by_hand(reference: str, images: Tensor, kinds: Tensor, epochs: int, batch: int) -> float:
    """Train by a loop that anyone would write; give the last epoch's mean loss."""
    torch.manual_seed(0)
    model = made(reference)
    groups = []
    for part, lr in ((model.backbones, LR / 10), (model.heads, LR)):
        for matrices in (True, False):
            held = [p for p in part.parameters() if (p.ndim > 1) == matrices]
            groups.append({"params": held, "lr": lr, "weight_decay": DECAY if matrices else 0.0})
    optimizer = torch.optim.AdamW(groups)
    loader = DataLoader(TensorDataset(images, kinds), batch_size=batch, shuffle=True)
    steps = epochs * len(loader)
    rising = math.ceil(steps * WARMUP)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    model.train()
    for _ in range(epochs):
        total = 0.0
        for image, kind in loader:
            loss = nn.functional.cross_entropy(model(image)["kind"], kind)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            total += loss.item()
    return total / len(loader)


def seconds(run: Callable[[], float]) -> tuple[float, float]:
    start = time.process_time()
    loss = run()
    return time.process_time() - start, loss


def main() -> None:
    """Run the rounds and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="timm:mobilenetv3_large_100")
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, nargs=2, default=[1, 4])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    logging.getLogger("zoo").setLevel(logging.WARNING)
    few, many = arguments.epochs
    given = (arguments.backbone, *rows(arguments.rows, arguments.pixels))
    steps = (many - few) * arguments.rows // arguments.batch
    for run in (ours, by_hand):
        run(*given, 1, arguments.batch)
    found: list[tuple[float, float]] = []
    for number in range(arguments.rounds):
        times, losses = {}, {}
        for run in (ours, by_hand) if number % 2 else (by_hand, ours):
            short, _ = seconds(lambda run=run: run(*given, few, arguments.batch))  # type: ignore[misc]
            long, losses[run] = seconds(lambda run=run: run(*given, many, arguments.batch))  # type: ignore[misc]
            times[run] = (long - short) / steps
        found.append((times[ours], times[by_hand]))
        told = f"last loss {losses[ours]:.4f} and {losses[by_hand]:.4f}"
        print(f"round {number}: {times[ours] * 1e3:.1f} and {times[by_hand] * 1e3:.1f} ms a step, {told}", flush=True)
    print(f"step of zoo.fit / of a loop by hand: {statistics.median(a / b for a, b in found):.3f}")


if __name__ == "__main__":
    main()
