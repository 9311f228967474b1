"""What domain adaptation trains beside the heads' own losses."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.augmentation import Augmentation
from zoo.contracts.features import Features, Want
from zoo.contracts.head import Task
from zoo.contracts.objective import Batch, Objective, TrainingRows
from zoo.errors import ConfigError
from zoo.norms import measure_norms, running_norms
from zoo_methods.adapting.losses import coral_loss, mmd_loss, reversal_strength, reverse

if TYPE_CHECKING:
    from zoo.model import Model

__all__ = ["Adapting"]

log = logging.getLogger("zoo")


class Adapting(Objective):
    """The heads' own losses, and how far the features of rows without labels are from those of the others.

    Args:
        how: ``dann``, ``coral``, ``mmd`` or ``adabn``.
        stream: The stream whose pooled vector is to be of no domain.
        view: How pictures of the rows without labels are varied; None for not at all.
        weight: Factor of what brings the domains together.
        kernels: How many kernels ``mmd`` has.
        norms: Whether norms are given the statistics of the rows without labels in the end.
        head: The head that tells the domains apart, for ``dann``.
    """

    def __init__(
        self,
        how: str,
        stream: str,
        view: Augmentation | None,
        *,
        weight: float,
        kernels: int,
        norms: bool,
        head: Task | None,
    ) -> None:
        super().__init__()
        self.how, self.stream, self.weight, self.kernels, self.norms = how, stream, weight, kernels, norms
        self.head = head
        self.unlabelled_views: Sequence[Augmentation | None] = (view,)
        self.wants = {} if how == "adabn" else {stream: Want(pooled=True)}
        self._rows: TrainingRows | None = None
        self._parts: list[Tensor] = []

    def begin(self, model: Model, rows: TrainingRows) -> None:
        """Keep the rows for the statistics of norms; ``adabn`` needs none of them in a step."""
        self._rows = rows
        if self.how == "adabn":
            self.unlabelled_views = ()

    def losses(self, model: Model, batch: Batch) -> Mapping[str, Tensor]:
        """Give the heads' own losses, and the distance of the domains.

        Raises:
            ConfigError: If what is to be adapted rests.
        """
        if self.how == "adabn":
            if not any(norm.training for norm in running_norms(model)):
                raise ConfigError("how='adabn' changes norms of stages that train, and all of them rest; see freeze=….")
            return batch.losses
        source = _present(batch.features[self.stream])
        target = _present(model.features(batch.unlabelled[0], wants=self.wants)[self.stream])
        if not source.requires_grad:
            raise ConfigError(f"how={self.how!r} trains backbones, and the stream {self.stream!r} rests; see freeze=….")
        if min(len(source), len(target)) < 2:
            return batch.losses
        part = self._apart(source, target, batch.progress)
        self._parts.append(part.detach())
        return {**batch.losses, "domains": part}

    def _apart(self, source: Tensor, target: Tensor, progress: float) -> Tensor:
        if self.how == "coral":
            return self.weight * coral_loss(source, target)
        if self.how == "mmd":
            return self.weight * mmd_loss(source, target, self.kernels)
        assert self.head is not None
        strength = self.weight * reversal_strength(progress)
        parts = []
        for domain, rows in enumerate((source, target)):
            truth = torch.full((len(rows),), domain, device=rows.device)
            parts.append(self.head.loss(self.head.score(Features(pooled=reverse(rows, strength))), truth))
        return parts[0] + parts[1]

    def epoch_ended(self) -> Mapping[str, float]:
        """Give the mean of what brings the domains together, as ``domains``; of ``dann`` the domain head's loss."""
        parts, self._parts = self._parts, []
        return {"domains": torch.stack(parts).mean().item()} if parts else {}

    def finish(self, model: Model) -> None:
        """Give the norms the statistics of the rows without labels, if that is asked for."""
        if self.norms and self._rows is not None:
            count = measure_norms(model, self._rows.unlabelled(), told="unlabelled=…")
            log.info("%d norms have the statistics of the rows without labels.", count)


def _present(features: Features) -> Tensor:
    """Give the pooled vectors of the rows that have an input for the stream."""
    pooled: Any = features.pooled
    rows: Tensor = pooled if features.present is None else pooled[features.present]
    return rows
