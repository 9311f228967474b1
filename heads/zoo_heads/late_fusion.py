"""Late fusion: one output of those of several streams, and the tasks that speak of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.contracts.features import Features
from zoo.contracts.head import Decoded, HeadContext, Label, Needs, Task, zero_loss
from zoo.contracts.masks import MaskCode
from zoo.errors import ConfigError, ShapeError
from zoo.spec import HeadSpec

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

__all__ = ["AbsentPrediction", "FusedTask", "SpokenTask", "StreamTask", "fuse_scores"]

Activation = Literal["softmax", "sigmoid"] | None


def fuse_scores(outputs: Sequence[Tensor], shares: Tensor, present: Tensor | None, activation: Activation) -> Tensor:
    """Average the outputs of several streams, each sample over the streams that it has.

    - ``softmax``: the logits ``log Σ_i w_i softmax(o_i)``, whose softmax is the mean of the softmaxes;
    - ``sigmoid``: the logits of ``Σ_i w_i sigmoid(o_i)``;
    - None: ``Σ_i w_i o_i``.

    Args:
        outputs: The output of each stream; what it is for a sample that lacks the stream does not matter.
        shares: Logarithm of the weight of each stream, up to a constant; the weights of those that a sample has are
            made to sum to 1.
        present: Which sample has which stream; None if all have all. One that has none gets that of outputs of 0.
        activation: How an output becomes the probabilities that are averaged.

    Shape:
        - ``outputs``: ``(B, …)`` each; ``shares``: ``(k,)``; ``present``: ``(B, k)``, bool.
        - returns: ``(B, …)``.

    Raises:
        ShapeError: If the outputs differ in shape.
    """
    shapes = {tuple(output.shape) for output in outputs}
    if len(shapes) > 1:
        raise ShapeError(f"Outputs that are averaged must have one shape, got {sorted(shapes)}; fuse features instead.")
    stacked = torch.stack(list(outputs), dim=1)
    stacked = stacked.to(torch.promote_types(stacked.dtype, torch.float32))
    logs = shares.to(stacked.dtype).expand(len(stacked), -1)
    if present is not None:
        logs = logs.masked_fill(~present & present.any(dim=1, keepdim=True), float("-inf"))
        stacked = torch.where(present.reshape(*present.shape, *[1] * (stacked.ndim - 2)), stacked, 0)
    logs = logs.log_softmax(dim=1).reshape(*logs.shape, *[1] * (stacked.ndim - 2))
    if activation == "softmax":
        return (stacked.log_softmax(dim=2) + logs).logsumexp(dim=1)
    if activation == "sigmoid":
        return (F.logsigmoid(stacked) + logs).logsumexp(dim=1) - (F.logsigmoid(-stacked) + logs).logsumexp(dim=1)
    return (stacked * logs.exp()).sum(dim=1)


@dataclass(frozen=True, slots=True)
class AbsentPrediction:
    """Says that a sample has no input from which a stream could have predicted.

    Args:
        missing: Name of the task that has no prediction.
    """

    missing: str

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return {"missing": self.missing}


class SpokenTask(Task):
    """A task whose labels, loss, metrics and decoding are those of another task.

    A sample may have no output: it adds nothing to loss and metrics.

    Args:
        spec: Its name and settings; they are those of the other task but for ``weight``.
        context: The model around it.
        speaker: The other task, which stays where it is: none of its parameters are this one's.
    """

    def __init__(self, spec: HeadSpec, context: HeadContext, speaker: Task) -> None:
        super().__init__(spec, type(speaker).read_config(spec), context)
        self._speaker = (speaker,)  # in a tuple, so that its tensors are not this module's too

    @property
    def speaker(self) -> Task:
        """The task whose words it uses."""
        return self._speaker[0]

    @classmethod
    def reads(cls, config: Any) -> Needs:
        """Read nothing by itself."""
        return Needs()

    @property
    def activation(self) -> Activation:
        """That of the other task."""
        return self.speaker.activation

    @property
    def precision_factor(self) -> float:
        """That of the other task."""
        return self.speaker.precision_factor

    @property
    def masks(self) -> MaskCode | None:
        """Those of the other task."""
        return self.speaker.masks

    def prepare(self, labels: Sequence[Label]) -> None:
        """Let the other task learn."""
        self.speaker.prepare(labels)

    @abstractmethod
    def score(self, features: Features) -> Tensor:
        """Give the output of a batch, ``(B, …)``."""

    @abstractmethod
    def there(self, output: Tensor) -> Tensor:
        """Say which samples have an output, ``(B,)`` bool."""

    def encode(self, labels: Sequence[Label]) -> Tensor:
        """Turn labels into targets, as the other task does."""
        return self.speaker.encode(labels)

    def known(self, target: Tensor) -> Tensor:
        """Say which samples have a label, as the other task does."""
        return self.speaker.known(target)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Give the other task's loss over the samples that have an output."""
        there = self.there(output)
        if not bool(there.any()):
            return zero_loss(output, *self.speaker.parameters())
        return self.speaker.loss(output[there], target[there])

    def metrics(self) -> MetricCollection:
        """Make fresh metrics."""
        return self.speaker.metrics()

    @property
    def best_metric(self) -> tuple[str, bool]:
        """That of the other task."""
        return self.speaker.best_metric

    def constant(self, targets: Tensor) -> Tensor | None:
        """Give that of the other task."""
        return self.speaker.constant(targets)

    def update(self, metrics: MetricCollection, output: Tensor, target: Tensor) -> None:
        """Feed the samples that have an output."""
        there = self.there(output)
        if bool(there.any()):
            self.speaker.update(metrics, output[there], target[there])

    def decode(self, output: Tensor) -> list[Decoded]:
        """Give the other task's predictions, and an :class:`AbsentPrediction` where there is no output."""
        there = self.there(output)
        told = iter(self.speaker.decode(output[there]) if bool(there.any()) else ())
        return [next(told) if one else AbsentPrediction(self.spec.name) for one in there.tolist()]

    def example_labels(self) -> list[Label]:
        """Give those of the other task."""
        return self.speaker.example_labels()


class FusedTask(SpokenTask):
    """The task of what is fused, in the words of the first stream's; the head around it computes its output."""

    def score(self, features: Features) -> Tensor:
        """Refuse: no single stream has its score."""
        raise ConfigError(f"The task {self.spec.name!r} is scored by the head that fuses its streams, not by itself.")

    def there(self, output: Tensor) -> Tensor:
        """Say that all samples have one."""
        return output.new_ones(len(output), dtype=torch.bool)


class StreamTask(SpokenTask):
    """The task of a stream that samples may lack: that of its own head, with NaN where there is no input."""

    def __init__(self, spec: HeadSpec, context: HeadContext, speaker: Task) -> None:
        super().__init__(spec, context, speaker)
        vars(self)["learns_features"] = speaker.learns_features  # of this one alone, not of the class

    def score(self, features: Features) -> Tensor:
        """Score what is there."""
        output, present = self.speaker.score(features), features.present
        return output if present is None else torch.where(_rows(present, output), output, float("nan"))

    def there(self, output: Tensor) -> Tensor:
        """Say which rows are no NaN."""
        return ~output.isnan().flatten(1).any(dim=1) if output.ndim > 1 else ~output.isnan()

    def learn(self, features: Features, target: Tensor) -> None:
        """Let the other task learn from what is there."""
        if features.present is not None:
            missing = self.speaker.encode([None]).to(target)
            target = torch.where(_rows(features.present, target), target, missing)
        self.speaker.learn(features, target)

    def learnt(self) -> None:
        """Let the other task end a pass."""
        self.speaker.learnt()


def _rows(present: Tensor, like: Tensor) -> Tensor:
    """Give ``(B,)`` as many dimensions as another tensor has."""
    return present.reshape(-1, *[1] * (like.ndim - 1))
