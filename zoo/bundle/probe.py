"""The probe: a seeded picture batch and what the model gave for it when it was saved.

The batch depends on no library's random numbers. Element ``i`` of an input is ``2 * byte / 255 - 1``, where ``byte`` is
the ``i``-th of the stream ``sha256("zoo.probe:<seed>:<input>:0")``, ``sha256("zoo.probe:<seed>:<input>:1")``, …

A model that rounds to eight bits runs in double precision: where processors sum in another order, the last bit of a
number differs, and where that is rounded, a whole step; what comes out may differ by some per cent then.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from zoo.bundle.manifest import Probe, ProbeOutput
from zoo.model import Model

__all__ = ["compare", "make_probe", "probe_input"]

log = logging.getLogger("zoo")

PICTURES = 2
MOST_VALUES = 1024


def probe_input(seed: int, name: str, shape: tuple[int, ...]) -> Tensor:
    """Make one input of the probe.

    Args:
        seed: The probe's seed.
        name: The input's name.
        shape: Its shape.

    Returns:
        Float32 of that shape, in ``[-1, 1]``.

    Example:
        >>> probe_input(0, "image", (3,))
        tensor([-0.8353, -0.6314, -0.4667])
    """
    count = math.prod(shape)
    blocks = (hashlib.sha256(f"zoo.probe:{seed}:{name}:{i}".encode()).digest() for i in range(-(-count // 32)))
    values = np.frombuffer(b"".join(blocks), dtype=np.uint8, count=count).astype(np.float32)
    return torch.from_numpy(values * np.float32(2 / 255) - 1).reshape(shape)


def make_probe(model: Model) -> Probe | None:
    """Run a model on the CPU, in eval mode, on the probe's input.

    Args:
        model: The model; one that rounds is in double precision afterwards.

    Returns:
        The probe; None where the model takes something else than pictures, or cannot run on a CPU.
    """
    shapes = _shapes(model)
    if not shapes or not model.tasks():
        return None
    try:
        outputs = _run(model, 0, shapes)
    except (RuntimeError, NotImplementedError) as error:
        log.warning("The bundle gets no probe, because the model does not run on the CPU: %s", error)
        return None
    return Probe(seed=0, inputs=shapes, outputs={name: _expected(output) for name, output in outputs.items()})


def compare(model: Model, probe: Probe) -> dict[str, float]:
    """Run a model on a probe.

    Args:
        model: The model; one that rounds is in double precision afterwards.
        probe: The probe.

    Returns:
        Task name to the largest difference, in the output's unit; infinite where the input is not the model's, the
        task is missing, or its output has another shape.
    """
    same = {name: tuple(shape) for name, shape in probe.inputs.items()} == _shapes(model)
    outputs = _run(model, probe.seed, probe.inputs) if same else {}
    return {name: _difference(outputs.get(name), expected) for name, expected in probe.outputs.items()}


def _shapes(model: Model) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for stream in model.spec.streams.values():
        first, *others = stream.backbone.inputs
        if first.kind != "image" or first.size is None or first.channels is None or any(o.required for o in others):
            return {}
        shapes.setdefault(stream.input, (PICTURES, first.channels, *first.size))
    return shapes


def _run(model: Model, seed: int, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    if any(backbone.spec.quantized is not None for backbone in model.backbones.values()):
        model.double()
    dtype = next((p.dtype for p in model.backbones.parameters() if p.is_floating_point()), torch.float32)
    inputs = {name: probe_input(seed, name, tuple(shape)).to(dtype) for name, shape in shapes.items()}
    with torch.inference_mode():
        return model(inputs)


def _expected(output: Tensor) -> ProbeOutput:
    values = _values(output)
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    precise = output.dtype in (torch.float32, torch.float64)
    tolerance = (1e-4 if precise else 3e-2) * max(1.0, largest)
    return ProbeOutput(shape=tuple(output.shape), values=tuple(values), tolerance=tolerance)


def _values(output: Tensor) -> list[float | None]:
    flat = output.detach().float().flatten()
    step = max(1, -(-len(flat) // MOST_VALUES))
    return [value if math.isfinite(value) else None for value in flat[::step].tolist()]


def _difference(output: Tensor | None, expected: ProbeOutput) -> float:
    if output is None or tuple(output.shape) != tuple(expected.shape):
        return math.inf
    values = _values(output)
    if len(values) != len(expected.values):
        return math.inf
    return max((_apart(got, want) for got, want in zip(values, expected.values, strict=True)), default=0.0)


def _apart(got: float | None, want: float | None) -> float:
    if got is None or want is None:
        return 0.0 if got is want else math.inf
    return abs(got - want)
