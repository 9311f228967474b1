"""Taking what modules inside a model give, during one pass of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Taps"]

Slots = dict[str, Tensor | None]
_OPEN: ContextVar[tuple[object, Slots] | None] = ContextVar("zoo_taps", default=None)


class Taps:
    """Forward hooks on some modules, which stand there for good and do nothing outside :meth:`run`.

    Hooks that come and go would break the graph of ``torch.compile``. What one pass takes belongs to that pass alone,
    also when several threads run one model.

    Args:
        native: The model.
        paths: Name to the path of the module whose output is taken.
    """

    def __init__(self, native: nn.Module, paths: Mapping[str, str]) -> None:
        self.compiled: Slots | None = None
        for name, path in paths.items():
            native.get_submodule(path).register_forward_hook(_Tap(self, name))

    def run(self, call: Callable[[], Any], wanted: Iterable[str]) -> tuple[Any, Slots]:
        """Call once; give what was returned, and for each wanted name what its module gave, None if it did not run."""
        slots: Slots = dict.fromkeys(wanted)
        if torch.compiler.is_compiling():  # a compiler follows an attribute, but no context variable
            self.compiled = slots
            output = call()
            self.compiled = None
            return output, slots
        token = _OPEN.set((self, slots))
        try:
            return call(), slots
        finally:
            _OPEN.reset(token)

    def slots(self) -> Slots | None:
        """Give where to put what is taken now; None outside a pass of this very model."""
        if torch.compiler.is_compiling():
            return self.compiled
        opened = _OPEN.get()
        return opened[1] if opened is not None and opened[0] is self else None


class _Tap:
    """The hook on one module; a class, so that it can be copied and pickled with the model."""

    def __init__(self, taps: Taps, name: str) -> None:
        self.taps = taps
        self.name = name

    def __call__(self, module: nn.Module, inputs: object, output: Any) -> None:
        slots = self.taps.slots()
        if slots is not None and self.name in slots and isinstance(output, Tensor):
            slots[self.name] = output
