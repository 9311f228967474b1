"""Regression: one number a sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.contracts.features import Features
from zoo.contracts.head import HeadContext, Label, Needs, Task, TaskConfig, zero_loss
from zoo.errors import CapabilityError, ConfigError, DataError
from zoo.spec import HeadSpec
from zoo_heads.layers import check_layers, projection

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

__all__ = ["Regression", "RegressionConfig", "ValuePrediction"]

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.huber_loss}

LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True, slots=True)
class ValuePrediction:
    """The predicted number of a sample.

    Args:
        value: In the unit of the training labels.
    """

    value: float

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return {"value": self.value}


@dataclass(frozen=True, kw_only=True)
class RegressionConfig(TaskConfig):
    """Settings of a regression.

    Args:
        loss: ``mse``, ``mae`` or ``huber``, on the standardised target.
        standardize: Whether to learn the target's mean and standard deviation from the training labels; the output is
            in the unit of the labels either way.
        bounds: Lowest and highest value that a prediction may take; None for no limit.
        norm: Whether to put a LayerNorm in front.
        hidden: Width of a hidden layer with GELU; None for a linear regression.
        dropout: Chance that a channel is zeroed in training, in ``[0, 1)``.
    """

    loss: Literal["mse", "mae", "huber"] = "mse"
    standardize: bool = True
    bounds: tuple[float, float] | None = None
    norm: bool = False
    hidden: int | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        TaskConfig.__post_init__(self)
        check_layers(self)
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise ConfigError(f"bounds must be a lower and a higher value, got {self.bounds}.")


class Regression(Task):
    """A linear regression or small perceptron on the pooled vector.

    Shape:
        - pooled: ``(B, pooled_dim)``, any float dtype.
        - output: ``(B,)``, in the unit of the labels.
        - target: ``(B,)`` float32, NaN where missing.
    """

    Config = RegressionConfig
    summary = "One number a sample: squared, absolute or Huber loss on a standardised target"

    def __init__(self, spec: HeadSpec, config: RegressionConfig, context: HeadContext) -> None:
        super().__init__(spec, config, context)
        width = context.streams[self.stream].pooled_dim
        self.layers = projection(width, 1, norm=config.norm, hidden=config.hidden, dropout=config.dropout)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    @classmethod
    def reads(cls, config: RegressionConfig) -> Needs:
        """Read the pooled vector."""
        return Needs(pooled=True)

    def prepare(self, labels: Sequence[Label]) -> None:
        """Learn the mean and standard deviation of the training labels."""
        target = self.encode([label for label in labels if label is not None])
        if self.config.standardize and len(target):
            self.get_buffer("mean").copy_(target.mean())
            spread = target.std(correction=0)
            self.get_buffer("std").copy_(spread if spread > 0 else torch.ones(()))

    def score(self, features: Features) -> Tensor:
        """Give the numbers, in the unit of the labels."""
        if features.pooled is None:
            raise CapabilityError(f"The head {self.spec.name!r} needs the pooled vector, and it was not computed.")
        standard = self.layers(features.pooled).squeeze(-1)
        standard = standard.to(torch.promote_types(standard.dtype, torch.float32))  # bf16 cannot tell 2000 from 2004
        return standard * self.get_buffer("std") + self.get_buffer("mean")

    def encode(self, labels: Sequence[Label]) -> Tensor:
        """Turn numbers into a tensor.

        Raises:
            DataError: If a label is not a number, or not finite in float32.
        """
        values = []
        for label in labels:
            if label is None:
                values.append(math.nan)
            elif isinstance(label, (int, float)) and abs(label) <= LARGEST:
                values.append(float(label))
            else:
                raise DataError(f"The head {self.spec.name!r} (regression) takes finite numbers, got {label!r}.")
        return torch.tensor(values, dtype=torch.float32)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Give the loss in units of the target's standard deviation."""
        known = ~target.isnan()
        if not bool(known.any()):
            return zero_loss(output)
        scale = self.get_buffer("std")
        return LOSSES[self.config.loss](output[known] / scale, target[known].to(output.dtype) / scale)

    def metrics(self) -> MetricCollection:
        """Make mean absolute and root mean squared error, in the unit of the labels."""
        from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection

        return MetricCollection({"mae": MeanAbsoluteError(), "rmse": MeanSquaredError(squared=False)})

    @property
    def best_metric(self) -> tuple[str, bool]:
        """Mean absolute error; less is better."""
        return "mae", False

    @property
    def precision_factor(self) -> float:
        """One half, as in the density of a Gaussian."""
        return 0.5

    def constant(self, targets: Tensor) -> Tensor:
        """Give the mean of the training labels."""
        return targets.mean(dim=0)

    def update(self, metrics: MetricCollection, output: Tensor, target: Tensor) -> None:
        """Feed the samples that have a label, predictions within bounds."""
        known = ~target.isnan()
        if bool(known.any()):
            metrics.update(self._bounded(output[known].float()), target[known])

    def decode(self, output: Tensor) -> list[Any]:
        """Give a ``ValuePrediction`` for each sample."""
        return [ValuePrediction(value) for value in self._bounded(output.float()).tolist()]

    def example_labels(self) -> list[Label]:
        """Give a few numbers, and a missing one."""
        low, high = self.config.bounds or (-1.0, 2.0)
        return [low, high, (low + high) / 2, None]

    def _bounded(self, output: Tensor) -> Tensor:
        return output if self.config.bounds is None else output.clamp(*self.config.bounds)
