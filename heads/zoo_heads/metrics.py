"""Metrics over classes that a part of the data may lack; torchmetrics' own count a missing class as 0."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_average_precision
from torchmetrics.utilities import dim_zero_cat

__all__ = ["BalancedAccuracy", "MeanAveragePrecision"]


class BalancedAccuracy(Metric):
    """Mean recall of the classes that occur.

    Args:
        num_classes: Number of classes.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.add_state("right", torch.zeros(num_classes), dist_reduce_fx="sum")
        self.add_state("seen", torch.zeros(num_classes), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Feed logits ``(B, K)`` and class indices ``(B,)``."""
        count = len(self.seen)
        self.seen += torch.bincount(target, minlength=count)
        self.right += torch.bincount(target[preds.argmax(dim=1) == target], minlength=count)

    def compute(self) -> Tensor:
        """Give the mean."""
        occurs = self.seen > 0
        return (self.right[occurs] / self.seen[occurs]).mean() if bool(occurs.any()) else torch.zeros(())


class MeanAveragePrecision(Metric):
    """Mean average precision of the classes that any sample has; 0 if there is none."""

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("preds", [], dist_reduce_fx="cat")
        self.add_state("target", [], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Feed probabilities and labels of 0 and 1, ``(B, K)`` both."""
        self.preds.append(preds)
        self.target.append(target)

    def compute(self) -> Tensor:
        """Give the mean."""
        preds, target = dim_zero_cat(self.preds), dim_zero_cat(self.target)
        occurs = target.any(dim=0).nonzero().flatten().tolist()
        each = [binary_average_precision(preds[:, one], target[:, one]) for one in occurs]
        return torch.stack(each).mean() if each else torch.zeros(())
