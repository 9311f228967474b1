"""What a candidate costs, and the limits of a search: all that is known before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from zoo.assembly import context_of
from zoo.errors import ConfigError
from zoo.model import Model
from zoo.pruning.measuring import all_of, latencies, sample_of, skeleton
from zoo.spec import ModelSpec

__all__ = ["COSTS", "Cost", "Limits", "cost_of"]

COSTS = ("parameters", "macs", "latency")
"""What can be limited, and made small beside the score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a candidate costs.

    Args:
        parameters: Parameters of the whole model.
        macs: Multiply-accumulates of the backbone for one picture at its size; None for what takes no pictures.
        latency: Median time of the backbone for one picture on the CPU, in milliseconds; None where nobody asked.
    """

    parameters: int
    macs: int | None = None
    latency: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a candidate may cost at the most; None for any.

    Args:
        parameters: Parameters of the whole model.
        macs: Multiply-accumulates of the backbone for one picture.
        latency: Milliseconds of the backbone for one picture on this CPU.

    Raises:
        ConfigError: If a limit is not above 0.
    """

    parameters: float | None = None
    macs: float | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value in asdict(self).items():
            good = (
                isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0 and math.isfinite(value)
            )
            if value is not None and not good:
                raise ConfigError(f"max_{name} must be a number above 0, got {value!r}.")

    def broken(self, cost: Cost) -> list[str]:
        """Name the limits that a cost is above, or that it cannot be held against."""
        found: Mapping[str, float | None] = asdict(cost)
        told = {name: limit for name, limit in asdict(self).items() if limit is not None}
        return [name for name, limit in told.items() if (value := found[name]) is None or value > limit]

    def __str__(self) -> str:
        told = {name: limit for name, limit in asdict(self).items() if limit is not None}
        return ", ".join(f"max_{name}={limit:g}" for name, limit in told.items()) or "none"


def cost_of(spec: ModelSpec, make: Callable[[], Model], *, limits: Limits, timed: bool) -> Cost:
    """Measure a candidate; what is cheap to know comes first, and nothing more is measured where that is too much.

    Args:
        spec: The model as data, of one stream.
        make: Builds it with random weights.
        limits: What it may cost.
        timed: Whether the latency is wanted though nothing limits it.

    Raises:
        ConfigError: If a limit is of what its inputs have not.
    """
    entry = next(iter(spec.streams.values()))
    bare = skeleton(entry.backbone).eval()
    if entry.keep is not None:
        bare.trim(entry.keep)
    with torch.random.fork_rng(devices=[]):
        context = context_of(spec)
        heads = [context.build(one) for one in spec.heads]
    parameters = sum(p.numel() for module in (bare.native, *heads) for p in module.parameters())
    macs = None
    if entry.backbone.modality == "image":
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            bare(sample_of(entry.backbone, device="meta"), all_of(bare))
        macs = counter.get_total_flops() // 2
    known = Cost(parameters=parameters, macs=macs)
    quick = Limits(parameters=limits.parameters, macs=limits.macs)
    if (limits.latency is None and not timed) or quick.broken(known):
        return known
    return Cost(parameters=parameters, macs=macs, latency=latencies([make()])[0])
