"""What heads share that are taught one class a row by showing them rows, instead of by gradients."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from zoo.contracts.features import Features
from zoo.contracts.head import HeadContext, Label, Task, TaskConfig
from zoo.errors import ConfigError, DataError
from zoo.spec import HeadSpec
from zoo_heads.classes import check_classes, complete_classes, must_have_classes
from zoo_heads.labels import SingleLabel

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

__all__ = ["TaughtConfig", "TaughtTask"]


@dataclass(frozen=True, kw_only=True)
class TaughtConfig(TaskConfig):
    """Settings of a task over named classes that is taught by rows.

    Args:
        classes: Names of the classes, 2 or more; None to take them from the training labels.
    """

    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        TaskConfig.__post_init__(self)
        check_classes(self.classes, least=2)


class TaughtTask(Task):
    """A task over named classes, one a sample, that ``zoo.fit`` shows the training rows; it has no parameters.

    Shape:
        - output: ``(B, K)`` logits, before softmax.
        - target: ``(B,)`` int64, -100 where missing.

    Raises:
        ConfigError: If ``classes`` is not set when it is built.
    """

    Config = TaughtConfig
    learns_features: ClassVar[bool] = True
    learns: ClassVar[str]
    """What it learns of the rows, in a word, for messages."""

    def __init__(self, spec: HeadSpec, config: TaughtConfig, context: HeadContext) -> None:
        super().__init__(spec, config, context)
        self.labels = SingleLabel(spec.name, must_have_classes(spec, config.classes))
        self.register_buffer("rows", torch.zeros(len(self.labels.classes), dtype=torch.int64))

    @classmethod
    def complete(cls, spec: HeadSpec, columns: Mapping[str, Sequence[Label]], context: HeadContext) -> HeadSpec:
        """Take the classes from the labels, sorted; whole numbers by value."""
        config: TaughtConfig = cls.read_config(spec)
        if config.classes is not None:
            return spec
        return complete_classes(spec, columns, target=config.target, several=None)

    @abstractmethod
    def score(self, features: Features) -> Tensor:
        """Give the logits, ``(B, K)``."""

    def encode(self, labels: Sequence[Label]) -> Tensor:
        """Turn labels into targets; raises ``DataError`` for one that is none of the classes."""
        return self.labels.encode(labels)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Give the cross-entropy, in nats."""
        return self.labels.loss(output, target, None, 0.0)

    @property
    def activation(self) -> Literal["softmax", "sigmoid"] | None:
        """Softmax over the classes."""
        return "softmax"

    def metrics(self) -> MetricCollection:
        """Make fresh metrics."""
        return self.labels.metrics(0.5)

    @property
    def best_metric(self) -> tuple[str, bool]:
        """Balanced accuracy."""
        return self.labels.best_metric, True

    def update(self, metrics: MetricCollection, output: Tensor, target: Tensor) -> None:
        """Feed a batch to the metrics."""
        self._check_learnt()
        self.labels.update(metrics, output, target)

    def decode(self, output: Tensor) -> list[Any]:
        """Give a ``ClassPrediction`` for each sample."""
        self._check_learnt()
        return self.labels.decode(output, 0.5)

    def example_labels(self) -> list[Label]:
        """Give each class once, and a missing label."""
        return [*self.labels.classes, None]

    def _check_all(self, rows: Tensor) -> None:
        """Refuse rows that leave a class out.

        Raises:
            DataError: If they do.
        """
        if not bool(rows.all()):
            missing = (name for name, count in zip(self.labels.classes, rows.tolist(), strict=True) if not count)
            names = [repr(name) for name in missing]
            raise DataError(
                f"The head {self.spec.name!r} ({self.spec.type}) needs a training row of each class, and there is none "
                f"of {', '.join(names[:5])}; give one, or leave the class out of classes."
            )

    def _check_learnt(self) -> None:
        """Refuse to tell anything before rows were shown.

        Raises:
            ConfigError: If none were.
        """
        if not bool(self.get_buffer("rows").any()):
            raise ConfigError(
                f"The head {self.spec.name!r} ({self.spec.type}) has not learnt its {self.learns} yet; show it "
                "labelled rows by zoo.fit."
            )
