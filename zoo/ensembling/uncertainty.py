"""How sure an ensemble is: what its members agree and disagree on, with each prediction."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.contracts.head import Decoded
from zoo.ensembling.combining import Activation, mixture

__all__ = ["ClassUncertainty", "EnsemblePrediction", "Uncertainty", "ValueUncertainty", "uncertainties"]


@dataclass(frozen=True, slots=True)
class ClassUncertainty:
    """How sure an ensemble is of classes or labels.

    For labels (a sigmoid each), and for outputs with a class at every pixel, all three are means over those.

    Args:
        entropy: Of the predicted probabilities, in nats.
        mutual_information: Entropy of the members' mean probabilities less the mean of their entropies, in nats: what
            is unsure because the members differ, and not because each of them is unsure.
        disagreement: Share of the members, by their weights, that would have said another class than the ensemble;
            for labels, that are on another side of a probability of 0.5.
    """

    entropy: float
    mutual_information: float
    disagreement: float

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ValueUncertainty:
    """How sure an ensemble is of a number.

    Args:
        std: Standard deviation of the members' outputs about their (weighted) mean, in the output's unit; the mean of
            it where an output has several numbers.
    """

    std: float

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return asdict(self)


Uncertainty = ClassUncertainty | ValueUncertainty


@dataclass(frozen=True)
class EnsemblePrediction:
    """A prediction of an ensemble: that of the task, whose fields are also this one's, and how sure it is.

    Args:
        prediction: What a single model's task would have given.
        uncertainty: How sure the ensemble is.
    """

    prediction: Decoded
    uncertainty: Uncertainty

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copying and pickling ask an object that has no fields yet
            raise AttributeError(name)
        return getattr(self.prediction, name)

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return {**self.prediction.as_json(), "uncertainty": self.uncertainty.as_json()}


def uncertainties(
    outputs: Tensor, output: Tensor, activation: Activation, weights: Tensor | None = None
) -> list[Uncertainty]:
    """Say how sure an ensemble is of each sample.

    Args:
        outputs: What the members gave for one task.
        output: What the ensemble gives.
        activation: How an output becomes probabilities.
        weights: One for each member, sum 1; None for equal ones.

    Shape:
        - ``outputs``: ``(M, B, …)``; ``output``: ``(B, …)``; ``weights``: ``(M,)``.
    """
    outputs, output = outputs.double(), output.double()
    shares = torch.full((len(outputs),), 1 / len(outputs)) if weights is None else weights
    wide = shares.to(outputs).reshape(-1, *[1] * (outputs.ndim - 1))
    if activation is None:
        middle = (wide * outputs).sum(dim=0)
        spread = (wide * (outputs - middle).square()).sum(dim=0).sqrt()
        return [ValueUncertainty(value) for value in _mean(spread).tolist()]
    entropy = _entropy(output, activation, 1)
    mixed = mixture(outputs, activation, weights)
    each = (wide.squeeze(2) if activation == "softmax" else wide) * _entropy(outputs, activation, 2)
    between = (_entropy(mixed, activation, 1) - each.sum(dim=0)).clamp(min=0)
    if activation == "softmax":
        other = outputs.argmax(dim=2) != output.argmax(dim=1)
        apart = (wide.squeeze(2) * other).sum(dim=0)
    else:
        apart = (wide * ((outputs >= 0) != (output >= 0))).sum(dim=0)
    columns = [_mean(values).tolist() for values in (entropy, between, apart)]
    return [ClassUncertainty(*row) for row in zip(*columns, strict=True)]


def _entropy(output: Tensor, activation: Activation, classes: int) -> Tensor:
    """Give entropies in nats; a softmax is over the dimension of the classes, which is gone then."""
    if activation == "softmax":
        logs = output.log_softmax(dim=classes)
        return -(logs.exp() * logs).nan_to_num(nan=0.0).sum(dim=classes)
    chance = output.sigmoid()
    return -(chance * F.logsigmoid(output) + (1 - chance) * F.logsigmoid(-output))


def _mean(values: Tensor) -> Tensor:
    """Average over all but the samples."""
    return values.flatten(1).mean(dim=1) if values.ndim > 1 else values
