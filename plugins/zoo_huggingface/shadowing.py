"""Running a module without memory, although parts of the pass are made of real numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

__all__ = ["Shadow"]

_MADE = frozenset({torch.tensor, torch.arange})
"""What makes numbers out of numbers; a pass may want to read them."""
_JUDGED = {torch.all: True, Tensor.all: True, torch.any: False, Tensor.any: False}
"""What a question about all numbers is answered where there are none: all is well, and nothing is odd."""


_SOUGHT = frozenset({torch.nonzero, Tensor.nonzero})
"""A question for the places of what is not 0, such as the experts that are asked: where no numbers are, all are."""


class Shadow(TorchFunctionMode):
    """Lets tensors on the meta device meet those on the CPU, such as grids, whose numbers a pass reads.

    Where the two meet, the result has no numbers; single numbers stay. Where a pass is to make on the CPU what it makes
    itself, what it makes out of numbers is made there, too, although it asks for a device without. Modules that have no
    such meetings run as they would.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func in _MADE and _is_meta(given.get("device")) and torch.get_default_device().type == "cpu":
            return func(*args, **{**given, "device": "cpu"})
        tensors = [leaf for leaf in tree_flatten((args, given))[0] if isinstance(leaf, Tensor)]
        if not any(tensor.is_meta for tensor in tensors):
            return func(*args, **given)
        if func in _JUDGED and len(args) == 1 and not given:
            return torch.tensor(_JUDGED[func], device="cpu")
        if func in _SOUGHT or (func is torch.where and len(args) == 1):
            found = _places(args[0])
            return found.unbind(1) if func is torch.where or given.get("as_tuple") else found
        if func is Tensor.__getitem__:
            args = (args[0], _without_masks(args[1]))
        if any(not tensor.is_meta for tensor in tensors):
            args, given = tree_map(_without_numbers, (args, given))
        return func(*args, **given)


def _is_meta(device: Any) -> bool:
    return device is not None and torch.device(device).type == "meta"


def _places(asked: Tensor) -> Tensor:
    return torch.ones(asked.shape, device="cpu").nonzero()


def _without_masks(index: Any) -> Any:
    """Put in the place of a mask without numbers the places of all that it may keep."""
    items = index if isinstance(index, tuple) else (index,)
    if not any(isinstance(item, Tensor) and item.is_meta and item.dtype == torch.bool for item in items):
        return index
    given: list[Any] = []
    for item in items:
        masks = isinstance(item, Tensor) and item.is_meta and item.dtype == torch.bool
        given += [places.to("meta") for places in _places(item).unbind(1)] if masks else [item]
    return tuple(given)


def _without_numbers(leaf: Any) -> Any:
    return leaf.to("meta") if isinstance(leaf, Tensor) and leaf.ndim and not leaf.is_meta else leaf
