"""Metrics over classes that a part of the data may lack; torchmetrics' own count a missing class as 0."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_average_precision
from torchmetrics.utilities import dim_zero_cat

__all__ = ["BalancedAccuracy", "MeanAveragePrecision", "QuadraticKappa"]


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


class QuadraticKappa(Metric):
    """Cohen's kappa with quadratic weights; 0 where all samples and predictions are of one class.

    Args:
        num_classes: Number of classes.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Feed class indices, ``(B,)`` both."""
        count = len(self.counts)
        self.counts += torch.bincount(target * count + preds, minlength=count**2).reshape(count, count)

    def compute(self) -> Tensor:
        """Give one less the squared distances that there are, over those that chance would give."""
        counts = self.counts.cpu().double()  # not every device has it
        place = torch.arange(len(counts))
        weights = (place[:, None] - place).square()
        chance = counts.sum(dim=1, keepdim=True) * counts.sum(dim=0) / counts.sum().clamp(min=1)
        expected = (weights * chance).sum()
        return 1 - (weights * counts).sum() / expected if bool(expected > 0) else torch.zeros(())
