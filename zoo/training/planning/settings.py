"""What a user sets of a training run, checked before any data is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zoo.augmentation import Augmentation
from zoo.errors import ConfigError
from zoo.training.planning.optimizers import MakesOptimizer, check_optimizer
from zoo.training.planning.schedules import Schedule, check_schedule
from zoo.training.rows.mixing import Mixing

__all__ = ["Settings", "name_of"]

_ASIDE = ("checkpoint", "resume", "checkpoint_every", "keep_checkpoints", "report_to")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user sets of a run; :func:`zoo.training.fitting.fit` says what each means."""

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    warmup: float | None
    seed: int
    device: str
    precision: str
    validation: float
    patience: int | None
    select: str | None
    workers: int | None
    augmentation: Augmentation | None
    freeze: tuple[str, ...] = ()
    freeze_norms: bool = False
    sampling: str | None = None
    shots: int | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    cached_views: int | None = None
    feature_precision: str = "fp32"
    solver: str = "sgd"
    ema: float | None = None
    checkpoint: Path | None = None
    resume: bool = False
    checkpoint_every: int | None = None
    keep_checkpoints: int = 2
    report_to: tuple[str, ...] = ()
    compile: bool = False
    sharded: bool = False
    optimizer: MakesOptimizer = "adamw"
    optimizer_settings: Mapping[str, Any] = field(default_factory=dict)
    schedule: Schedule = "cosine"
    schedule_settings: Mapping[str, Any] = field(default_factory=dict)
    clip: float = 1.0
    accumulate: int = 1

    @classmethod
    def of(
        cls,
        *,
        augmentation: Augmentation | str | None,
        freeze: str | Sequence[str] | None,
        checkpoint: str | Path | None,
        optimizer_settings: Mapping[str, Any] | None,
        schedule_settings: Mapping[str, Any] | None,
        **given: Any,
    ) -> Settings:
        """Read the settings as a user gives them.

        Raises:
            ConfigError: If one cannot be used.
            UnknownName: If there is no such optimizer, schedule, or augmentation.
        """
        varied = Augmentation.of(augmentation)
        return cls(
            augmentation=None if varied.idle else varied,  # features can be kept of what nothing changes
            freeze=_names(freeze),
            checkpoint=None if checkpoint is None else Path(checkpoint),
            optimizer_settings=optimizer_settings or {},
            schedule_settings=schedule_settings or {},
            **given,
        )

    @property
    def mixing(self) -> Mixing | None:
        """How batches are mixed; None for not at all."""
        return Mixing(self.mixup, self.cutmix) if self.mixup or self.cutmix else None

    def __post_init__(self) -> None:
        """Check the ranges, before any data is read."""
        least = {"epochs": 1, "batch_size": 1, "seed": 0, "patience": 1, "workers": 0, "cached_views": 1}
        least |= {"checkpoint_every": 1, "keep_checkpoints": 1, "accumulate": 1, "shots": 1}
        for what, low in least.items():
            value = getattr(self, what)
            if value is None and what in ("patience", "workers", "cached_views", "checkpoint_every", "shots"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ConfigError(f"{what} must be a whole number, {low} or more, got {value!r}.")
        if self.seed >= 2**32:
            raise ConfigError(f"seed must be below 2**32, got {self.seed}.")
        for what in ("lr", "weight_decay", "warmup", "validation", "clip"):
            value = getattr(self, what)
            if value is None and what == "warmup":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ConfigError(f"{what} must be a finite number, got {value!r}.")
        if self.sampling is not None and (not isinstance(self.sampling, str) or self.solver == "lbfgs"):
            raise ConfigError(
                f"sampling must be 'balanced' or 'balanced/task', and needs solver='sgd', got {self.sampling!r} and "
                f"{self.solver!r}."
            )
        for what in ("mixup", "cutmix"):
            value = getattr(self, what)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ConfigError(f"{what} must be 0 or more and finite, got {value!r}.")
        if self.mixing is not None and (self.cached_views is not None or self.solver == "lbfgs"):
            kept = "cached_views and solver='lbfgs' learn from kept features"
            raise ConfigError(f"mixup and cutmix mix pictures, and {kept}; leave one of them out.")
        if not isinstance(self.freeze, tuple) or not all(isinstance(name, str) for name in self.freeze):
            raise ConfigError(f"freeze must be the name of a stage or a list of them, got {self.freeze!r}.")
        if not isinstance(self.freeze_norms, bool):
            raise ConfigError(f"freeze_norms must be True or False, got {self.freeze_norms!r}.")
        if not self.lr > 0:
            raise ConfigError(f"lr must be above 0, got {self.lr}.")
        if not self.weight_decay >= 0:
            raise ConfigError(f"weight_decay must be 0 or more, got {self.weight_decay}.")
        for what in ("warmup", "validation"):
            if not 0 <= (getattr(self, what) or 0) < 1:
                raise ConfigError(f"{what} must be in [0, 1), got {getattr(self, what)}.")
        if not self.clip >= 0:
            raise ConfigError(f"clip must be above 0, or 0 for no clipping, got {self.clip}.")
        for what in ("optimizer_settings", "schedule_settings"):
            if not isinstance(getattr(self, what), Mapping):
                raise ConfigError(f"{what} must be a mapping of names to values, got {getattr(self, what)!r}.")
        check_optimizer(self.optimizer, self.optimizer_settings, weight_decay=self.weight_decay)
        check_schedule(self.schedule, self.schedule_settings, self.warmup)
        if self.precision not in ("auto", "fp32", "bf16", "fp16"):
            raise ConfigError(f"precision must be auto, fp32, bf16 or fp16, got {self.precision!r}.")
        if self.feature_precision not in ("fp32", "bf16"):
            raise ConfigError(f"feature_precision must be fp32 or bf16, got {self.feature_precision!r}.")
        if self.solver not in ("sgd", "lbfgs"):
            raise ConfigError(f"solver must be sgd or lbfgs, got {self.solver!r}.")
        if self.cached_views is not None and self.augmentation is None:
            raise ConfigError("cached_views is how many views of a picture are kept; give an augmentation, too.")
        if self.solver == "lbfgs" and self.augmentation is not None and self.cached_views is None:
            raise ConfigError("solver='lbfgs' sees all features at once; say with cached_views how many views it sees.")
        usual: dict[str, Any] = {"optimizer": "adamw", "optimizer_settings": {}, "schedule": "cosine"}
        usual |= {"schedule_settings": {}, "clip": 1.0, "accumulate": 1}
        if self.solver == "lbfgs" and (set_ := [what for what, value in usual.items() if getattr(self, what) != value]):
            raise ConfigError(f"solver='lbfgs' has no steps: leave {' and '.join(set_)} out, or take solver='sgd'.")
        self._check_keeping()
        if not isinstance(self.compile, bool):
            raise ConfigError(f"compile must be True or False, got {self.compile!r}.")
        of_kept = {"cached_views": None, "feature_precision": "fp32", "solver": "sgd"}
        if self.compile and (given := [what for what, usual in of_kept.items() if getattr(self, what) != usual]):
            raise ConfigError(f"compile=True runs all of a backbone in each step: leave {' and '.join(given)} out.")
        self._check_sharded()

    def _check_sharded(self) -> None:
        """Check what is said of a model in pieces."""
        if not isinstance(self.sharded, bool):
            raise ConfigError(f"sharded must be True or False, got {self.sharded!r}.")
        adafactor = isinstance(self.optimizer, str) and self.optimizer.casefold() == "adafactor"
        refused = {
            "solver='lbfgs' needs all weights of a head at once": self.solver == "lbfgs",
            "compile=True makes code of a backbone that is whole": self.compile,
            "Adafactor keeps sums over whole rows and columns of a weight": adafactor,
            "precision='fp16' scales losses by all gradients of a process": self.precision == "fp16",
        }
        for why in (why for why, asked in refused.items() if asked and self.sharded):
            raise ConfigError(f"sharded=True has the model in pieces, and {why}; leave one of them out.")

    def _check_keeping(self) -> None:
        """Check what is said of averages and checkpoints."""
        number = isinstance(self.ema, (int, float)) and not isinstance(self.ema, bool)
        if self.ema is not None and not (number and 0 < self.ema < 1):
            raise ConfigError(f"ema must be a number above 0 and below 1, such as 0.999, got {self.ema!r}.")
        if not isinstance(self.resume, bool):
            raise ConfigError(f"resume must be True or False, got {self.resume!r}.")
        if self.checkpoint is None and (self.resume or self.checkpoint_every is not None):
            what = "resume" if self.resume else "checkpoint_every"
            raise ConfigError(f"{what} is for runs that keep checkpoints; name their folder with checkpoint=….")
        if self.solver == "lbfgs" and (self.ema is not None or self.checkpoint is not None):
            raise ConfigError("solver='lbfgs' has no steps: leave ema and checkpoint out, or take solver='sgd'.")

    def told(self) -> dict[str, Any]:
        """Give what makes the run what it is, by name; where it is kept and told of is left out."""
        functions = {"optimizer": name_of(self.optimizer), "schedule": name_of(self.schedule)}
        return {name: value for name, value in (asdict(self) | functions).items() if name not in _ASIDE}


def _names(given: str | Sequence[str] | None) -> Any:
    """Read one name or several; what is neither is for the checks to refuse."""
    if given is None or isinstance(given, str):
        return () if given is None else (given,)
    return tuple(given) if isinstance(given, Sequence) else given


def name_of(given: MakesOptimizer | Schedule) -> str:
    """Give the name of an optimizer or a schedule, of a function its own."""
    if isinstance(given, str):
        return given
    return f"{getattr(given, '__module__', '?')}.{getattr(given, '__qualname__', type(given).__qualname__)}"
