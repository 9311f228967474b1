"""Running a module without memory, although parts of the pass are made of real numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

__all__ = ["Shadow"]

_JUDGED = {torch.all: True, Tensor.all: True, torch.any: False, Tensor.any: False}
"""What a question about all numbers is answered where there are none: all is well, and nothing is odd."""


class Shadow(TorchFunctionMode):
    """Lets tensors on the meta device meet those on the CPU, such as grids, whose numbers a pass reads.

    Where the two meet, the result has no numbers; single numbers stay. Modules without such meetings run as they would.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        tensors = [leaf for leaf in tree_flatten((args, given))[0] if isinstance(leaf, Tensor)]
        if not any(tensor.is_meta for tensor in tensors):
            return func(*args, **given)
        if func in _JUDGED and len(args) == 1 and not given:
            return torch.tensor(_JUDGED[func], device="cpu")
        if any(not tensor.is_meta for tensor in tensors):
            args, given = tree_map(_without_numbers, (args, given))
        return func(*args, **given)


def _without_numbers(leaf: Any) -> Any:
    return leaf.to("meta") if isinstance(leaf, Tensor) and leaf.ndim and not leaf.is_meta else leaf
