"""Training: a step of zoo.fit against a step of a plain PyTorch loop with the same model, rows and settings.

Both fine-tune by AdamW with the same groups, warm-up and cosine, clipped gradients, fp32, rows in memory and no
validation. They run in one process and take turns after each step, so that a machine that slows down slows both; a step
lasts from the backbone's start to its next one, whatever stands between, the end of an epoch included. Start and end of
a run do not count. A control runs the loop by hand against itself.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import threading
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


class Turns:
    """Two runs that stop before each pass of their backbones until the other has come as far."""

    def __init__(self) -> None:
        self.gates = (threading.Semaphore(1), threading.Semaphore(0))
        self.ended = [False, False]
        self.times: tuple[list[float], list[float]] = ([], [])
        self.begun = [0.0, 0.0]

    def watch(self, model: zoo.Model, who: int) -> None:
        """Stop a model before each pass."""

        def before(*_: object) -> None:
            if self.begun[who]:
                self.times[who].append(time.perf_counter() - self.begun[who])
            self.gates[1 - who].release()
            if not self.ended[1 - who]:
                self.gates[who].acquire()
            self.begun[who] = time.perf_counter()

        model.backbones["main"].register_forward_pre_hook(before)

    def end(self, who: int) -> None:
        """Let the other go on alone."""
        self.ended[who] = True
        self.gates[1 - who].release()


def ours(model: zoo.Model, images: Tensor, kinds: Tensor, epochs: int, batch: int) -> None:
    """Train by zoo.fit."""
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
    zoo.fit(model, table, method="fine_tuning", device="cpu", **run)


def by_hand(model: zoo.Model, images: Tensor, kinds: Tensor, epochs: int, batch: int) -> None:
    """Train by a loop that anyone would write."""
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
    total = 0.0
    for _ in range(epochs):
        for image, kind in loader:
            loss = nn.functional.cross_entropy(model(image)["kind"], kind)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            total += loss.item()


Run = Callable[[zoo.Model, Tensor, Tensor, int, int], None]


def compare(runs: tuple[Run, Run], reference: str, given: tuple[Any, ...], order: tuple[int, int]) -> float:
    """Give the seconds of the first's steps divided by those of the second's."""
    turns, models = Turns(), [made(reference), made(reference)]

    def go(who: int) -> None:
        try:
            turns.watch(models[who], who)
            runs[who](models[who], *given)
        finally:
            turns.end(who)

    threads = [threading.Thread(target=go, args=(who,)) for who in order]  # both, since the main one is quicker
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pairs = list(zip(*turns.times, strict=False))[1:]
    first, second = (statistics.median(times) * 1e3 for times in zip(*pairs, strict=True))
    print(f"  {runs[0].__name__} {first:.1f} ms, {runs[1].__name__} {second:.1f} ms, {len(pairs)} steps", flush=True)
    return sum(times[0] for times in pairs) / sum(times[1] for times in pairs)


def main() -> None:
    """Run the rounds and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="timm:mobilenetv3_large_100")
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    logging.getLogger("zoo").setLevel(logging.WARNING)
    given = (*rows(arguments.rows, arguments.pixels), arguments.epochs, arguments.batch)
    asked: dict[str, tuple[Run, Run]] = {
        "step of zoo.fit / of a loop by hand": (ours, by_hand),
        "control: a loop by hand / another": (by_hand, by_hand),
    }
    found: dict[str, list[float]] = {what: [] for what in asked}
    for number in range(arguments.rounds):
        for what, runs in asked.items():
            found[what].append(compare(runs, arguments.backbone, given, (0, 1) if number % 2 else (1, 0)))
    for what, ratios in found.items():
        print(f"{what}: {statistics.median(ratios):.3f} ({', '.join(f'{ratio:.3f}' for ratio in ratios)})")


if __name__ == "__main__":
    main()
