"""SimSiam: one view predicts the other, from which no gradient comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.augmentation import Augmentation
from zoo_methods.self_supervising.layers import perceptron
from zoo_methods.self_supervising.scheme import Scheme

if TYPE_CHECKING:
    from zoo.model import Model

__all__ = ["SimSiam", "negative_cosine"]


def negative_cosine(predicted: Tensor, projected: Tensor) -> Tensor:
    """Give minus the mean cosine of rows; no gradient comes from the second.

    Args:
        predicted: Predictions from one view.
        projected: Embeddings of another view of the same rows.

    Shape:
        - ``predicted``, ``projected``: ``(B, d)``.
        - returns: a scalar in ``[-1, 1]``.

    Source:
        Chen and He, "Exploring Simple Siamese Representation Learning", 2020, arXiv:2011.10566, equation 1.
    """
    return -F.cosine_similarity(predicted.float(), projected.detach().float(), dim=1).mean()


class SimSiam(Scheme):
    """A projector of three layers and a predictor with a bottleneck of a quarter; equation 4 of the paper.

    Args:
        stream: The stream whose backbone trains.
        views: Two views.
        channels: Width of the pooled vector.
        hidden: Width of the projector's hidden layers.
        projection: Width of the embeddings, 4 or more.
    """

    takes: ClassVar[Mapping[str, Any]] = {"hidden": 2048, "projection": 2048}

    def __init__(
        self, stream: str, views: Sequence[Augmentation], channels: int, *, hidden: int, projection: int
    ) -> None:
        super().__init__(stream, views)
        self.projector = perceptron(channels, hidden, hidden, projection, last_norm=True)
        self.predictor = perceptron(projection, max(1, projection // 4), projection)

    def compare(self, model: Model, views: Sequence[Any]) -> Tensor:
        """Give the loss of two views."""
        one, other = (self.projector(self.pooled(model, view)) for view in views)
        self.watch(one)
        guessed = self.predictor(one), self.predictor(other)
        with torch.autocast(one.device.type, enabled=False):
            return (negative_cosine(guessed[0], other) + negative_cosine(guessed[1], one)) / 2
