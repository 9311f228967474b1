"""What a training run did, epoch by epoch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
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
        score: What the best epoch is chosen by, turned so that more is better; None where it is not known.
        seconds: Wall-clock time of the epoch, its validation included.
        memory: Most memory until the epoch's end, in bytes: on a CUDA device what torch had of it in this epoch,
            elsewhere what the process ever had; None where the system does not tell.
        measures: What the method's objective measured in the epoch, by name; empty without one.
    """

    epoch: int
    train_loss: float
    validation_loss: float | None = None
    validation: Metrics = field(default_factory=dict)
    score: float | None = None
    seconds: float | None = None
    memory: int | None = None
    measures: dict[str, float] = field(default_factory=dict)


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
        cached_prefix: Stream to the stages that ran once a picture, where the stages above them train.
        feature_difference: With features in bf16, how far they are from those in fp32 on a few samples, as a share of
            the largest value.
        advice: With ``method="auto"``, what was advised and what was chosen; else None.
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
    cached_prefix: dict[str, list[str]] = field(default_factory=dict)
    feature_difference: float | None = None
    advice: dict[str, Any] | None = None
    seconds: float = 0.0

    def values(self) -> list[float]:
        """Give each epoch's score, by which a plan or a schedule may go; NaN where it is not known."""
        return [math.nan if row.score is None else row.score for row in self.epochs]

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return asdict(self)

    def plot(self, path: str | Path) -> Path:
        """Draw the losses and metrics over the epochs; the best one is marked.

        Args:
            path: The picture; its ending says which kind, such as ``.png`` or ``.svg``.

        Returns:
            The path.

        Raises:
            PluginError: If matplotlib is not installed; it is in the extra ``plot``.
            ConfigError: If there is no epoch, or the picture cannot be written like that.
        """
        from zoo.training.judging.records import draw

        return draw(self.epochs, path, best=self.best_epoch if self.select is not None else 0)
