"""Metrics of embeddings: does a sample find others of its class among the rows that are evaluated?"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

__all__ = ["Retrieval"]

QUERIES = 512
"""Queries that are compared with all rows at once."""


class Retrieval(Metric):
    """Retrieval within the evaluated rows: each is a query once, the others are ranked by their cosine to it.

    A query whose class no other row has is left out, since it can find nothing; the result is the mean over the
    others, 0 if there is none. Of equal cosines the row that came first ranks first. All embeddings are kept until the
    end, and ``compute`` takes time in the square of their number.

    Args:
        measure: ``recall_at_1``, whether the nearest row is of the query's class; or ``map``, the average precision of
            the ranking.

    Shape:
        - preds: ``(B, D)`` embeddings of length 1; target: ``(B,)`` int64, one number a class.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    def __init__(self, measure: Literal["recall_at_1", "map"]) -> None:
        super().__init__()
        self.measure = measure
        self.add_state("preds", [], dist_reduce_fx="cat")
        self.add_state("target", [], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Feed embeddings and classes."""
        self.preds.append(preds)
        self.target.append(target)

    def compute(self) -> Tensor:
        """Give the mean over the queries."""
        vectors, classes = dim_zero_cat(self.preds), dim_zero_cat(self.target)
        found = [self._each(vectors, classes, rows) for rows in torch.arange(len(classes)).split(QUERIES)]
        every = torch.cat(found)
        return every.mean() if len(every) else torch.zeros(())

    def _each(self, vectors: Tensor, classes: Tensor, rows: Tensor) -> Tensor:
        """Measure some queries, those with something to find."""
        rows = rows.to(vectors.device)
        near = vectors[rows] @ vectors.T
        near[torch.arange(len(rows), device=rows.device), rows] = -torch.inf  # itself comes last, and is cut off
        order = near.argsort(dim=1, descending=True, stable=True)[:, :-1]
        right = (classes[order] == classes[rows, None]).to(torch.float32)
        right = right[right.any(dim=1)]
        if self.measure == "recall_at_1":
            return right[:, 0] if len(right) else right.new_zeros(0)
        places = torch.arange(1, right.shape[1] + 1, device=right.device)
        return (right * right.cumsum(dim=1) / places).sum(dim=1) / right.sum(dim=1)
