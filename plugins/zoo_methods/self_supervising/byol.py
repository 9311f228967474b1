"""BYOL: one view predicts what a slowly following target network makes of the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.augmentation import Augmentation
from zoo_methods.self_supervising.layers import perceptron
from zoo_methods.self_supervising.scheme import Scheme
from zoo_methods.self_supervising.targets import Followed

if TYPE_CHECKING:
    from zoo.contracts.backbone import Backbone
    from zoo.model import Model

__all__ = ["BYOL", "distance"]


def distance(predicted: Tensor, target: Tensor) -> Tensor:
    """Give the mean squared distance of rows of length 1, which is ``2 - 2 cos``.

    Args:
        predicted: Predictions of the online network.
        target: What the target network gives.

    Shape:
        - ``predicted``, ``target``: ``(B, d)``.
        - returns: a scalar in ``[0, 4]``.

    Source:
        Grill et al., "Bootstrap Your Own Latent", 2020, arXiv:2006.07733, equation 2.
    """
    return 2 - 2 * F.cosine_similarity(predicted.float(), target.float(), dim=1).mean()


class BYOL(Scheme):
    """A projector, a predictor, and a target network that follows backbone and projector.

    Args:
        stream: The stream whose backbone trains.
        views: Two views.
        backbone: The backbone that the target network copies.
        hidden: Width of the hidden layers of projector and predictor.
        projection: Width of the embeddings.
        momentum: Share of itself that the target network keeps in the first step.
    """

    takes: ClassVar[Mapping[str, Any]] = {"hidden": 4096, "projection": 256, "momentum": 0.996}

    def __init__(
        self,
        stream: str,
        views: Sequence[Augmentation],
        backbone: Backbone,
        *,
        hidden: int,
        projection: int,
        momentum: float,
    ) -> None:
        super().__init__(stream, views)
        self.projector = perceptron(backbone.spec.pooled_dim, hidden, projection)
        self.predictor = perceptron(projection, hidden, projection)
        self.target = Followed(momentum, backbone, self.projector)

    def compare(self, model: Model, views: Sequence[Any]) -> Tensor:
        """Give the loss of two views, each predicting the other's target: ``L + L~`` of the paper."""
        projected = [self.projector(self.pooled(model, view)) for view in views]
        self.watch(projected[0])
        backbone, projector = self.target.copies
        with torch.no_grad():
            one, other = (projector(self.pooled(model, view, backbone)) for view in views)
        guessed = [self.predictor(each) for each in projected]
        with torch.autocast(one.device.type, enabled=False):
            return distance(guessed[0], other) + distance(guessed[1], one)

    def stepped(self, model: Model, progress: float) -> None:
        """Let the target network follow."""
        self.target.follow(progress, model.backbones[self.stream], self.projector)
