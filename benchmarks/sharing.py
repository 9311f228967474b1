"""Shared work: heads on one backbone, and ensemble members on a common frozen one, against models of their own.

Processor time of a batch, medians over rounds in which both run in turn; memory is what the tensors of each take. The
outputs of the members are compared bit by bit with those that they give alone.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import zoo

CLASSES = [str(number) for number in range(10)]


def head(name: str) -> zoo.HeadSpec:
    return zoo.head("classifier", name=name, classes=CLASSES)


def seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def ratios(ours: Callable[[], Any], *others: Callable[[], Any], rounds: int) -> list[float]:
    """Give the median time of ours, divided by that of each other, run in turn."""
    runs = (ours, *others)
    for run in runs:
        run()
    times = list(zip(*([seconds(run) for run in runs] for _ in range(rounds)), strict=True))
    medians = [statistics.median(each) for each in times]
    return [medians[0] / median for median in medians[1:]]


def size(*models: torch.nn.Module) -> int:
    """Count the bytes of parameters and buffers."""
    tensors = {id(t): t for model in models for t in (*model.parameters(), *model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def heads(reference: str, x: torch.Tensor, rounds: int, count: int = 10) -> dict[str, float]:
    """Compare heads on one backbone with one model of one head, and with a model for each head."""
    together = zoo.build(reference, [head(f"task{n}") for n in range(count)], weights=None, seed=0)
    single = zoo.build(reference, head("task0"), weights=None, seed=0)
    apart = [copy.deepcopy(single) for _ in range(count)]
    one, all_ = ratios(lambda: together(x), lambda: single(x), lambda: [model(x) for model in apart], rounds=rounds)
    return {"time of one": one, "memory of one": size(together) / size(single), "times faster": 1 / all_}


def members(reference: str, x: torch.Tensor, rounds: int, count: int = 5) -> dict[str, float]:
    """Compare an ensemble whose members have one backbone with its members one after another."""
    first = zoo.build(reference, head("task"), weights=None, seed=0)
    models = [first]
    for seed in range(1, count):
        model = zoo.build(reference, head("task"), weights=None, seed=seed)
        model.backbones.load_state_dict(first.backbones.state_dict())
        models.append(model.freeze())
    ensemble = zoo.ensemble(models)
    (ratio,) = ratios(lambda: ensemble(x), lambda: [model(x) for model in models], rounds=rounds)
    ours = ensemble.member_outputs(x)["task"]
    equal = all(torch.equal(found, model(x)["task"]) for found, model in zip(ours, models, strict=True))
    return {"time of five": ratio, "bit-equal": float(equal)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--backbone", nargs="+", default=["timm:resnet18", "timm:mobilenetv3_large_100", "timm:deit_tiny_patch16_224"]
    )
    parser.add_argument("--batch", type=int, default=8, help="pictures in one pass")
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    x = torch.randn(arguments.batch, 3, arguments.size, arguments.size)
    with torch.no_grad():
        for reference in arguments.backbone:
            for what, measure in (("ten heads", heads), ("five members", members)):
                found = measure(reference, x, arguments.rounds)
                told = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
                print(f"{reference:32} {what:14} {told}", flush=True)


if __name__ == "__main__":
    main()
