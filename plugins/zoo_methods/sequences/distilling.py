"""The old model as a teacher of its own successor."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from zoo.model import Model

__all__ = ["exemplar_loss", "old_classes_loss", "teacher_of"]


def teacher_of(model: Model) -> Model:
    """Copy a model as it is now, without what methods keep in it; it stays in eval mode, and nothing of it trains."""
    state, model.state = model.state, {}
    try:
        teacher = copy.deepcopy(model)
    finally:
        model.state = state
    return teacher.eval().requires_grad_(False)


def old_classes_loss(output: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Give the cross-entropy between softened probabilities of the old classes: LwF's equations 2 to 4.

    ``- Σ_i y'_i log ŷ'_i`` with ``y' = softmax(taught / T)`` and ``ŷ' = softmax(output / T)``, the mean over the rows.

    Args:
        output: The new model's logits of the old classes, ``(B, K)``.
        taught: The old model's, ``(B, K)``.
        temperature: T, above 0.
    """
    soft = (taught.float() / temperature).softmax(dim=1)
    return -(soft * (output.float() / temperature).log_softmax(dim=1)).sum(dim=1).mean()


def exemplar_loss(output: Tensor, target: Tensor, taught: Tensor | None, old: Tensor) -> Tensor:
    """Give iCaRL's loss: a sigmoid a class, which learns the label for new classes, and the old model's for old ones.

    Args:
        output: Logits, ``(B, K)``.
        target: Class numbers, ``(B,)``.
        taught: The old model's logits, ``(B, K)``; None where nothing is old.
        old: Which classes the old model teaches, ``(K,)`` bool.

    Returns:
        The sum over the classes and the mean over the rows, in nats.
    """
    wanted = F.one_hot(target, output.shape[1]).float()
    if taught is not None:
        wanted = torch.where(old, taught.float().sigmoid(), wanted)
    return F.binary_cross_entropy_with_logits(output.float(), wanted, reduction="none").sum(dim=1).mean()
