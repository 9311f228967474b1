"""Gradients of single tasks: where tasks meet, what each asks for there, and how the sum is changed.

The change is put into the loss itself: its value stays, its gradient is another. So a plain loop, an engine, gradient
scaling and distributed training need not know of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.contracts.sharing import Shared
from zoo.errors import ConfigError

__all__ = ["common", "last_layers", "meeting", "steer", "task_gradients"]

HALF_SCALES = (2.0**14, 2.0**7, 1.0)
"""Factors of a loss whose gradients run through float16, the first that overflows nowhere: small ones would be 0."""


def meeting(who: str, losses: Iterable[Tensor], shared: Shared) -> Shared:
    """Keep of the parameters those that two tasks or more read.

    Args:
        who: The head, as errors name it.
        losses: The losses of all tasks, those without labels too.
        shared: What they may have in common.

    Raises:
        ConfigError: If there are none, and ``shared.later`` does not excuse it.
    """
    count: dict[int, int] = {}
    for loss in losses:
        for one in _leaves(loss):
            count[one] = count.get(one, 0) + 1

    def several(parameters: Iterable[nn.Parameter]) -> tuple[nn.Parameter, ...]:
        once = {id(parameter): parameter for parameter in parameters}
        return tuple(parameter for key, parameter in once.items() if count.get(key, 0) > 1)

    found = Shared({name: several(own) for name, own in shared.backbones.items()}, several(shared.trunk), shared.later)
    if not shared.later and not common(found):
        raise ConfigError(
            f"{who} balances its tasks by parameters that they share, and none that they share trains; let a backbone "
            "train, or take balance='uncertainty' or 'fixed'."
        )
    return found


def common(shared: Shared) -> list[nn.Parameter]:
    """List all shared parameters, each once."""
    every = [p for own in shared.backbones.values() for p in own] + list(shared.trunk)
    return list({id(parameter): parameter for parameter in every}.values())


def last_layers(shared: Shared) -> list[nn.Parameter]:
    """Find the last shared weights: the trunk's last matrix if there is one, else that of each backbone.

    Where no matrix trains, it is the last vector.
    """

    def last(own: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        return [*[p for p in own if p.ndim > 1], *(own if all(p.ndim < 2 for p in own) else ())][-1:]

    found = last(shared.trunk) or [p for own in shared.backbones.values() for p in last(own)]
    return list({id(parameter): parameter for parameter in found}.values())


def task_gradients(losses: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> Tensor:
    """Give each loss's gradient by the parameters, flat.

    Shape:
        - losses: ``()`` each; parameters: any, ``n`` numbers in all.
        - returns: ``(len(losses), n)``, float32 or wider.
    """
    kind = losses[0].device.type
    half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
    with torch.autocast(kind, enabled=False):
        return torch.stack([_gradient(loss, parameters, HALF_SCALES if half else (1.0,)) for loss in losses])


def steer(loss: Tensor, changes: Sequence[tuple[nn.Parameter, Tensor]]) -> Tensor:
    """Add to the gradient of a loss, and leave its value.

    Args:
        loss: Any scalar.
        changes: Parameters, and what their gradient gets in addition, of equal shape.
    """
    steered: Tensor = _Steer.apply(loss, [change for _, change in changes], *[parameter for parameter, _ in changes])
    return steered


class _Steer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, changes: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.changes = [change.to(parameter.dtype) for change, parameter in zip(changes, parameters, strict=True)]
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None, *[grads[0].to(change.dtype) * change for change in ctx.changes]


def _gradient(loss: Tensor, parameters: Sequence[nn.Parameter], scales: Sequence[float]) -> Tensor:
    for scale in scales:
        given = torch.autograd.grad(loss * scale, parameters, retain_graph=True, allow_unused=True)
        wide = [
            torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(parameters, given, strict=True)
        ]
        flat = torch.cat([part.to(torch.promote_types(part.dtype, torch.float32)) for part in wide]) / scale
        if scale == scales[-1] or bool(flat.isfinite().all()):
            break
    return flat


def _leaves(loss: Tensor) -> set[int]:
    """Give the ids of the parameters that a loss depends on: the leaves of its graph."""
    found: set[int] = set()
    seen = {loss.grad_fn}
    todo = [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is None:
            continue
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        following = {step for step, _ in node.next_functions} - seen
        seen |= following
        todo += following
    return found
