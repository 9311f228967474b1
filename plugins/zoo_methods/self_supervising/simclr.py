"""SimCLR: a view must be told from those of all other pictures of the batch."""

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

__all__ = ["SimCLR", "nt_xent"]


def nt_xent(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """Give the normalised temperature-scaled cross entropy, in nats, the mean over both views of all rows.

    Args:
        one: Embeddings of a view.
        other: Those of another view of the same rows.
        temperature: What cosines are divided by, above 0.

    Shape:
        - ``one``, ``other``: ``(B, d)``.
        - returns: a scalar.

    Source:
        Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", 2020, arXiv:2002.05709,
        equation 1.
    """
    unit = F.normalize(torch.cat([one, other]).float(), dim=1)
    logits = unit @ unit.T / temperature
    logits.fill_diagonal_(float("-inf"))
    rows = len(one)
    return F.cross_entropy(logits, torch.arange(2 * rows, device=unit.device).roll(rows))


class SimCLR(Scheme):
    """A projector of two layers, and :func:`nt_xent` of its outputs.

    Args:
        stream: The stream whose backbone trains.
        views: Two views.
        channels: Width of the pooled vector.
        hidden: Width of the projector's hidden layer.
        projection: Width of the embeddings.
        temperature: What cosines are divided by.
    """

    takes: ClassVar[Mapping[str, Any]] = {"hidden": 2048, "projection": 128, "temperature": 0.1}

    def __init__(
        self,
        stream: str,
        views: Sequence[Augmentation],
        channels: int,
        *,
        hidden: int,
        projection: int,
        temperature: float,
    ) -> None:
        super().__init__(stream, views)
        self.temperature = temperature
        self.projector = perceptron(channels, hidden, projection)

    def compare(self, model: Model, views: Sequence[Any]) -> Tensor:
        """Give the loss of two views."""
        one, other = (self.projector(self.pooled(model, view)) for view in views)
        self.watch(one)
        with torch.autocast(one.device.type, enabled=False):
            return nt_xent(one, other, self.temperature)
