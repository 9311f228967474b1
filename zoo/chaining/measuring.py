"""Size and speed of what a step left."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch

from zoo.contracts.examples import example_inputs
from zoo.model import Model

__all__ = ["latency", "megabytes"]

PASSES = 11
"""Passes whose median counts, behind three that do not."""
_TENSORS = frozenset({".safetensors", ".onnx", ".bin", ".data"})


def latency(model: Model) -> float:
    """Give the median time of a pass of one row on the CPU, in milliseconds, with torch's number of threads.

    Args:
        model: The model, which is left in eval mode.
    """
    inputs = {name: example_inputs(entry.backbone, batch=1) for name, entry in model.spec.streams.items()}
    model.eval()
    taken = []
    with torch.no_grad():
        for _ in range(3 + PASSES):
            start = time.perf_counter()
            model(inputs)
            taken.append(time.perf_counter() - start)
    return round(statistics.median(taken[3:]) * 1e3, 3)


def megabytes(path: Path) -> float:
    """Give the size of the files of tensors below a path, or of the one that it is, in 10**6 bytes."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.suffix in _TENSORS]
    return round(sum(file.stat().st_size for file in files) / 1e6, 3)
