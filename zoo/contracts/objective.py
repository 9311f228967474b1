"""The objective contract: what a method trains beside the heads' losses, or in their place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from zoo.augmentation import Augmentation
from zoo.contracts.features import Features, Want

if TYPE_CHECKING:
    from torch.utils.data import Sampler

    from zoo.model import Model

__all__ = ["Batch", "Objective", "TrainingRows"]


@dataclass(slots=True, kw_only=True)
class Batch:
    """What an objective sees of a step.

    Args:
        rows: Numbers of the training rows, ``(B,)`` int64.
        inputs: What the model takes of them; None where kept features take its place.
        targets: Task name to encoded targets, ``(B, …)``; empty where the rows have no labels.
        features: Stream name to features, with what the objective wants beside what the heads read; empty where
            ``Objective.passes`` is False.
        outputs: Task name to what the heads gave, ``(B, …)``.
        losses: Task name to the heads' own loss, a scalar.
        views: For each of ``Objective.views``, what the model takes of another view of the same rows.
        others: For each of ``Objective.others``, what that model takes of the very same view of the rows.
        unlabelled: For each of ``Objective.unlabelled_views``, what the model takes of ``unlabelled_ratio * B`` rows
            without labels; all of them are views of the same rows.
        step: Number of the optimizer step, from 0.
        progress: Share of the run's steps that are done, in ``[0, 1)``.
    """

    rows: Tensor
    inputs: Any = None
    targets: Mapping[str, Tensor] = field(default_factory=dict)
    features: Mapping[str, Features] = field(default_factory=dict)
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    views: Sequence[Any] = ()
    others: Mapping[str, Any] = field(default_factory=dict)
    unlabelled: Sequence[Any] = ()
    step: int = 0
    progress: float = 0.0


class TrainingRows(Protocol):
    """The rows of a run, as an objective may go over them before training, in their order and as plain views."""

    fixed: bool
    """Whether every epoch sees the rows as these are here, so that what is computed of them can be kept."""
    place: torch.device
    """Where the run trains, and where an objective should compute."""
    targets: Mapping[str, Any]
    """Task name to encoded targets, one a row; empty where the rows have no labels."""

    def __len__(self) -> int:
        """Give the number of training rows."""
        ...

    def batches(self, other: str | None = None, *, most: int | None = None) -> Iterator[Any]:
        """Give what the model takes of the rows, or another model of ``Objective.others``, batch by batch.

        With ``most``, give that many at the most, evenly spread over the rows, and so is each batch.
        """
        ...

    def keep(self, rows: Sequence[int]) -> dict[str, Any]:
        """Copy rows, samples and labels, into a tree of tensors and JSON, such as ``model.state`` holds.

        ``table.with_kept`` in :meth:`zoo.Method.rows` gives them back.
        """
        ...

    def unlabelled(self) -> Iterator[Any]:
        """Give what the model takes of the rows without labels, batch by batch."""
        ...


class Objective(nn.Module, ABC):
    """Turns a training batch into what is trained; a module, which may have parameters of its own.

    Its parameters train with the run's optimizer at the heads' rate, times :attr:`lr_scale`; its state is kept in
    checkpoints, so that a run that goes on ends as one that never stopped: what can be computed anew in :meth:`begin`
    belongs in non-persistent buffers. Validation judges the model's own tasks, without the objective.

    What a batch has, the class or the instance says; after :meth:`begin` it stays so.
    """

    labelled: ClassVar[bool] = True
    """Whether the training rows need labels; where not, heads rest and no epoch is judged."""
    passes: bool = True
    """Whether the model runs on each batch before :meth:`losses`, as in plain training."""
    views: Sequence[Augmentation | None] = ()
    """Further views of each row's pictures that a step needs; None for the plain one."""
    unlabelled_views: Sequence[Augmentation | None] = ()
    """Views of rows without labels that a step needs."""
    unlabelled_ratio: int = 1
    """How many rows without labels a step has for each with labels."""
    others: Mapping[str, Any] = {}
    """Other models (``zoo.Model``, ``zoo.Ensemble``) by name that need the rows as they take them."""
    wants: Mapping[str, Want] = {}
    """Stream name to what a step needs of its backbone beside what the heads read."""
    batch_size: int | None = None
    """How many rows each training batch must have, such as an episode's; None for any number."""
    lr_scale: float = 1.0
    """Learning rate of its own parameters, as a share of the heads'."""

    @property
    def live(self) -> bool:
        """Whether the model must run on pictures, also where all of its backbones rest and features could be kept."""
        return bool(self.views or self.unlabelled_views or self.others or self.wants) or not self.passes

    def begin(self, model: Model, rows: TrainingRows) -> None:
        """Look at the training rows before the first step; by default nothing. Called once a run, resumed ones too.

        Args:
            model: The model, in eval mode and on ``rows.place``.
            rows: The training rows.
        """
        return

    def order(self, targets: Mapping[str, Any], seed: int) -> Sampler[int] | None:
        """Give what draws the training rows, such as episodes one after the other; None for each once an epoch.

        It must be a pure function of the seed and of the number of the pass over it, from ``set_epoch`` if it has one.

        Args:
            targets: Task name to encoded targets, one a row; empty where it is only asked whether it draws rows.
            seed: The run's seed.
        """
        return None

    @abstractmethod
    def losses(self, model: Model, batch: Batch) -> Mapping[str, Tensor]:
        """Give the parts, by name, whose sum is trained.

        Args:
            model: The model, in the mode in which it trains.
            batch: The batch; ``batch.losses`` among what is returned keeps the heads' own.
        """

    def stepped(self, model: Model, progress: float) -> None:
        """Follow an optimizer step, such as a moving average does; by default nothing.

        Args:
            model: The model.
            progress: Share of the run's steps that are done, in ``(0, 1]``.
        """
        return

    def epoch_ended(self) -> Mapping[str, float]:
        """Give what it measured in the epoch that ends, by name, for ``history.epochs``; by default nothing."""
        return {}

    def finish(self, model: Model) -> None:
        """Leave in the model what is to stay, once it has the weights of its best epoch; by default nothing.

        Args:
            model: The model, in eval mode.
        """
        return
