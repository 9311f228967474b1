"""Advice: the evidence, where it places the data, and the method that follows from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from zoo.advising.drift import Drift
from zoo.advising.evidence import TaskEvidence
from zoo.advising.rules import Placement

__all__ = ["Advice"]


@dataclass(frozen=True, slots=True)
class Advice:
    """What to train with, and why.

    Args:
        backbone: The references of the backbones.
        source: The data, as a person reads it.
        rows: Labelled and unlabelled training rows of the data.
        measured: How many of them were looked at.
        evidence: What was measured, a task each.
        placements: Task to its place among the quadrants.
        decided_by: The task that decided: the one whose labels pretraining helps least.
        quadrant: Its quadrant, such as ``small and similar``.
        method: The method.
        own: The method's own settings.
        settings: The settings of ``zoo.fit``.
        reason: Why, in a sentence.
        near: What would be advised on the other side of a threshold that is near; empty if none is.
        drift: What a short fine-tuning did to the features; None if it was not asked for.
        warnings: What to know besides.
        seed: Seed of what was drawn.
        seconds: Wall-clock time that it took.
    """

    backbone: tuple[str, ...]
    source: str
    rows: int
    measured: int
    evidence: tuple[TaskEvidence, ...]
    placements: Mapping[str, Placement]
    decided_by: str
    quadrant: str
    method: str
    own: Mapping[str, Any]
    settings: Mapping[str, Any]
    reason: str
    near: tuple[str, ...]
    drift: Drift | None
    warnings: tuple[str, ...]
    seed: int
    seconds: float

    def fit(self) -> dict[str, Any]:
        """Give the method with its settings as keywords of ``zoo.fit``."""
        return {"method": self.method, **self.settings, **self.own}

    def options(self) -> list[str]:
        """Give the method with its settings as options of ``zoo fit``."""
        words = ["--method", self.method]
        for name, value in self.settings.items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        for name, value in self.own.items():
            words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
        return words

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values; what is no finite number is null."""
        told = {**_plain(asdict(self)), "fit": self.fit(), "options": self.options()}
        for task, placement in self.placements.items():
            told["placements"][task]["quadrant"] = placement.quadrant
        return told


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
