"""What the schemes have in common: views in, embeddings out, and a watch for collapse."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.augmentation import Augmentation
from zoo.contracts.features import Features, Want
from zoo.contracts.objective import Batch, Objective, TrainingRows
from zoo.errors import ConfigError, DataError
from zoo_methods.self_supervising.collapse import LEAST_RANK, LEAST_SPREAD, spread_and_rank

if TYPE_CHECKING:
    from zoo.model import Model

__all__ = ["Scheme"]

log = logging.getLogger("zoo")


class Scheme(Objective):
    """Trains a backbone by views of pictures alone; a subclass says how.

    Each view is a batch of its own to the backbone's norms.

    Args:
        stream: The stream whose backbone trains.
        views: What a step sees of each picture.
    """

    labelled = False
    passes = False
    takes: ClassVar[Mapping[str, Any]]
    """The settings of the scheme, with its paper's values."""

    def __init__(self, stream: str, views: Sequence[Augmentation]) -> None:
        super().__init__()
        self.stream = stream
        self.views = tuple(views)
        self.register_buffer("measured", torch.zeros(3))
        self.measured: Tensor

    def begin(self, model: Model, rows: TrainingRows) -> None:
        """Refuse what no norm can learn from.

        Raises:
            DataError: If there is but one picture.
        """
        if len(rows) < 2:
            raise DataError(f"self_supervised needs two pictures or more to tell apart, got {len(rows)}.")

    def losses(self, model: Model, batch: Batch) -> Mapping[str, Tensor]:
        """Give the scheme's loss.

        Raises:
            ConfigError: If the batch has one row.
        """
        if len(batch.rows) < 2:
            raise ConfigError("self_supervised needs batches of two rows or more; pass a larger batch_size.")
        return {"views": self.compare(model, batch.views)}

    @abstractmethod
    def compare(self, model: Model, views: Sequence[Any]) -> Tensor:
        """Give the loss of a batch, a scalar; calls :meth:`watch` with what must not collapse.

        Args:
            model: The model.
            views: What the model takes of each view.
        """

    def pooled(self, model: Model, view: Any, backbone: nn.Module | None = None) -> Tensor:
        """Give the pooled vectors of a view, ``(B, C)``, by the stream's backbone or one like it; no other runs."""

        def run(stream: str, seen: Any) -> Features:
            if stream != self.stream:
                return Features()
            found: Features = (model.backbones[stream] if backbone is None else backbone)(seen, Want(pooled=True))
            return found

        pooled = model.features(view, run=run)[self.stream].pooled
        assert pooled is not None
        return pooled

    def watch(self, embedded: Tensor) -> None:
        """Note how far a batch of embeddings, ``(B, d)``, spreads."""
        with torch.no_grad(), torch.autocast(embedded.device.type, enabled=False):
            spread, rank = spread_and_rank(embedded)
            self.measured += torch.stack([spread, rank, torch.ones_like(rank)]).to(self.measured)

    def epoch_ended(self) -> dict[str, float]:
        """Give the mean spread and effective rank of the epoch's embeddings, and say it if they have collapsed."""
        spread, rank, count = self.measured.tolist()
        self.measured.zero_()
        if not count:
            return {}
        spread, rank = spread / count, rank / count
        if spread < LEAST_SPREAD or rank < LEAST_RANK:
            log.warning(
                "The embeddings have collapsed (spread %.2g of 1, effective rank %.1f), so the backbone learns nothing "
                "of the pictures; lower lr, take larger batches, or how='barlow_twins' or 'simclr', which push apart.",
                spread,
                rank,
            )
        return {"spread": spread, "rank": rank}
