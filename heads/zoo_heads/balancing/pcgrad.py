"""PCGrad: where the gradients of two tasks conflict, each loses what goes against the other."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from zoo.contracts.sharing import Shared
from zoo_heads.balancing.balance import Balance
from zoo_heads.balancing.steering import common, meeting, steer, task_gradients

__all__ = ["PCGrad", "projected"]


class PCGrad(Balance):
    """Projects each task's gradient by the shared parameters onto the normal plane of those that it conflicts with.

    The losses keep their values and their fixed weights; the sum's gradient by the shared parameters is the sum of the
    projected ones. The order in which a task meets the others is drawn from torch's global generator. In distributed
    training each process projects the gradients of its own batch, and the results are averaged.

    Args:
        settings: What it is told.

    Source:
        Yu et al., "Gradient Surgery for Multi-Task Learning", 2020, arXiv:2001.06782, algorithm 1. Ours computes with
        the gradients' products alone, which is the same.
    """

    learns_weights = False

    def forward(self, losses: Mapping[str, Tensor], present: Collection[str], shared: Shared) -> dict[str, Tensor]:
        """Steer the sum of the losses."""
        parameters = common(meeting(self.settings.who, losses.values(), shared))
        here = [name for name in self.names if name in present and losses[name].requires_grad]
        if len(here) < 2 or not parameters:
            return dict(losses)
        gradients = task_gradients([losses[name] for name in here], parameters)
        with torch.autocast(gradients.device.type, enabled=False):
            products = (gradients @ gradients.T).cpu().to(torch.float64)
            orders = [torch.randperm(len(here), device="cpu").tolist() for _ in here]
            change = projected(products, orders).sum(dim=0) - 1
            if not bool(change.any()):
                return dict(losses)
            flat = change.to(gradients) @ gradients
        parts = flat.split([parameter.numel() for parameter in parameters])
        changes = [(p, part.view_as(p)) for p, part in zip(parameters, parts, strict=True)]
        return {**losses, here[0]: steer(losses[here[0]], changes)}

    def weights(self) -> dict[str, float]:
        """Give 1 for each task: it changes directions, not weights."""
        return dict.fromkeys(self.names, 1.0)


def projected(products: Tensor, orders: Sequence[Sequence[int]]) -> Tensor:
    """Say of which gradients each projected gradient is made.

    Args:
        products: Scalar products of all pairs of gradients; with one that is not finite nothing is projected.
        orders: For each task, the order in which it meets the tasks; itself is passed over.

    Shape:
        - products: ``(T, T)``, float64.
        - returns: ``(T, T)``; row ``i`` has the factors of the gradients whose sum is the projected gradient ``i``.
    """
    made = torch.eye(len(products), dtype=products.dtype)
    if not bool(products.isfinite().all()):
        return made
    for task, order in enumerate(orders):
        for other in order:
            along = made[task] @ products[:, other]
            if other != task and along < 0 < products[other, other]:
                made[task, other] -= along / products[other, other]
    return made
