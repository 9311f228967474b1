"""What a user sets of a training run, checked before any data is read."""

from __future__ import annotations

import math
from dataclasses import dataclass

from zoo.augmentation import Augmentation
from zoo.errors import ConfigError

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user sets of a run; :func:`zoo.training.fitting.fit` says what each means."""

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    warmup: float
    seed: int
    device: str
    precision: str
    validation: float
    patience: int | None
    select: str | None
    workers: int | None
    augmentation: Augmentation | None

    def __post_init__(self) -> None:
        """Check the ranges, before any data is read."""
        for what, low in (("epochs", 1), ("batch_size", 1), ("seed", 0), ("patience", 1), ("workers", 0)):
            value = getattr(self, what)
            if value is None and what in ("patience", "workers"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ConfigError(f"{what} must be a whole number, {low} or more, got {value!r}.")
        if self.seed >= 2**32:
            raise ConfigError(f"seed must be below 2**32, got {self.seed}.")
        for what in ("lr", "weight_decay", "warmup", "validation"):
            value = getattr(self, what)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ConfigError(f"{what} must be a finite number, got {value!r}.")
        if not self.lr > 0:
            raise ConfigError(f"lr must be above 0, got {self.lr}.")
        if not self.weight_decay >= 0:
            raise ConfigError(f"weight_decay must be 0 or more, got {self.weight_decay}.")
        for what in ("warmup", "validation"):
            if not 0 <= getattr(self, what) < 1:
                raise ConfigError(f"{what} must be in [0, 1), got {getattr(self, what)}.")
        if self.precision not in ("auto", "fp32", "bf16", "fp16"):
            raise ConfigError(f"precision must be auto, fp32, bf16 or fp16, got {self.precision!r}.")
