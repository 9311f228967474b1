"""Barlow Twins: the embeddings of two views correlate dimension by dimension, and dimensions with no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from zoo.augmentation import Augmentation
from zoo_methods.self_supervising.layers import perceptron
from zoo_methods.self_supervising.scheme import Scheme

if TYPE_CHECKING:
    from zoo.model import Model

__all__ = ["BarlowTwins", "decorrelation"]

_LEAST = 1e-5
"""What is added to a variance, as BatchNorm does."""


def decorrelation(one: Tensor, other: Tensor, redundancy: float) -> Tensor:
    """Give how far the views' cross-correlation is from the identity, squared and summed.

    Args:
        one: Embeddings of a view.
        other: Those of another view of the same rows.
        redundancy: Weight of what is off the diagonal, above 0.

    Shape:
        - ``one``, ``other``: ``(B, d)``, with ``B`` 2 or more.
        - returns: a scalar, 0 or more.

    Source:
        Zbontar et al., "Barlow Twins", 2021, arXiv:2103.03230, equations 1 and 2.
    """
    first, second = (_standardised(each.float()) for each in (one, other))
    squares = (first.T @ second / len(first) - torch.eye(one.shape[1], device=one.device)).square()
    diagonal = squares.diagonal().sum()
    return diagonal + redundancy * (squares.sum() - diagonal)


def _standardised(values: Tensor) -> Tensor:
    return (values - values.mean(0)) / (values.var(0, correction=0) + _LEAST).sqrt()


class BarlowTwins(Scheme):
    """A projector of three layers, and :func:`decorrelation` of its outputs.

    Args:
        stream: The stream whose backbone trains.
        views: Two views.
        channels: Width of the pooled vector.
        hidden: Width of the projector's hidden layers.
        projection: Width of the embeddings.
        redundancy: Weight of what is off the diagonal.
    """

    takes: ClassVar[Mapping[str, Any]] = {"hidden": 2048, "projection": 2048, "redundancy": 0.005}

    def __init__(
        self,
        stream: str,
        views: Sequence[Augmentation],
        channels: int,
        *,
        hidden: int,
        projection: int,
        redundancy: float,
    ) -> None:
        super().__init__(stream, views)
        self.redundancy = redundancy
        self.projector = perceptron(channels, hidden, hidden, projection)

    def compare(self, model: Model, views: Sequence[Any]) -> Tensor:
        """Give the loss of two views."""
        one, other = (self.projector(self.pooled(model, view)) for view in views)
        self.watch(one)
        with torch.autocast(one.device.type, enabled=False):
            return decorrelation(one, other, self.redundancy)
