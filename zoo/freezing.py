"""Freezing that freezes: weights, running statistics, dropout, through any later ``.train()``.

``requires_grad=False`` alone lets BatchNorm statistics drift, and ``.eval()`` is undone by the next ``.train()`` of the
model or of a part of it. Here a frozen module's mode is pinned: its own ``train`` answers by staying in eval. No class
is swapped and no key renamed, so bundles, exports and copies see the model as it was.
"""

from __future__ import annotations

import types
from collections.abc import Iterator

from torch import nn

from zoo.contracts.backbone import Backbone

__all__ = ["freeze_stages", "is_pinned"]


def train(module: nn.Module, mode: bool = True) -> nn.Module:
    """Stay in eval, whatever is asked; stands in for ``module.train`` while the module is frozen."""
    return type(module).train(module, False)


def is_pinned(module: nn.Module) -> bool:
    """Say whether a module's mode is pinned."""
    return "train" in vars(module)


def freeze_stages(backbone: Backbone, frozen: frozenset[str]) -> None:
    """Make exactly the named stages of a backbone frozen, and all others trainable.

    A parameter is frozen if its stage is. A module is pinned if everything in it is frozen: its parameters, its
    buffers and, where it has none, its place in the order of execution, so that dropout rests too.

    Args:
        backbone: The backbone; its training mode is kept for what is not frozen.
        frozen: Names of stages; unknown ones have no effect.
    """
    for name, parameter in backbone.native.named_parameters():
        parameter.requires_grad_(backbone.stage_of(name) not in frozen)
        if not parameter.requires_grad:
            parameter.grad = None
    mode = backbone.training
    for name, module in backbone.native.named_modules():
        vars(module).pop("train", None)
        if frozen >= set(_stages_within(backbone, name, module)):
            vars(module)["train"] = types.MethodType(train, module)
    backbone.train(mode)


def _stages_within(backbone: Backbone, name: str, module: nn.Module) -> Iterator[str]:
    prefix = name + "." if name else ""
    if name:
        yield backbone.stage_of(name)
    for child, _ in module.named_modules():
        if child:
            yield backbone.stage_of(prefix + child)
    for tensor, _ in (*module.named_parameters(), *module.named_buffers()):
        yield backbone.stage_of(prefix + tensor)
