"""What a training run did, epoch by epoch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["EpochRow", "History"]

Metrics = dict[str, dict[str, float]]
"""Task name to metric name to value."""


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One epoch.

    Args:
        epoch: Counted from 1.
        train_loss: Mean training loss.
        validation_loss: Loss on the validation rows; None without any.
        validation: Metrics on the validation rows, at the end of the epoch.
    """

    epoch: int
    train_loss: float
    validation_loss: float | None = None
    validation: Metrics = field(default_factory=dict)


@dataclass(slots=True)
class History:
    """A training run, for a reader and for the bundle.

    Args:
        method: Name of the training method.
        settings: All settings of the run, the method's own among them.
        rows: Number of rows in each part.
        epochs: One row an epoch.
        select: What the best epoch was chosen by, ``loss`` ``tasks`` or ``task/metric``; None without validation rows.
        baselines: Where ``select`` is ``tasks``, what each task's deciding metric is if a constant is predicted.
        best_epoch: The epoch whose weights the model now has, counted from 1.
        validation: Metrics of the final model on the validation rows.
        test: Metrics of the final model on the test rows; None without any.
        skipped: Names and reasons of rows that could not be read.
        device: Where it ran.
        precision: In which it ran.
        cached_features: Whether the backbone ran once a picture instead of once an epoch.
        seconds: Wall-clock time.
    """

    method: str
    settings: dict[str, Any]
    rows: dict[str, int]
    epochs: list[EpochRow] = field(default_factory=list)
    select: str | None = None
    baselines: dict[str, float] = field(default_factory=dict)
    best_epoch: int = 0
    validation: Metrics = field(default_factory=dict)
    test: Metrics | None = None
    skipped: list[dict[str, str]] = field(default_factory=list)
    device: str = "cpu"
    precision: str = "fp32"
    cached_features: bool = False
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return asdict(self)
