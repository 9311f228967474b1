"""Taking the outputs of modules during one pass, safe for threads, copies and compilers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import TypeVar

import torch
from torch import Tensor, nn

__all__ = ["Recorder"]

Slots = dict[str, Tensor | None]
Output = TypeVar("Output")
_SLOTS: ContextVar[Slots | None] = ContextVar("zoo_torchvision_slots", default=None)


class Recorder:
    """Takes the outputs of some modules during one pass.

    Its hooks stand on the modules for good and do nothing outside :meth:`run`: hooks that come and go would break the
    graph of ``torch.compile`` and would be seen by every thread. What a pass takes belongs to that pass alone, also
    when several threads run one module or a pass raises.

    Args:
        native: The module that runs.
        taps: Name to the path of the module whose output is taken.
    """

    def __init__(self, native: nn.Module, taps: Mapping[str, str]) -> None:
        self.traced: Slots | None = None
        for name, path in taps.items():
            native.get_submodule(path).register_forward_hook(_Tap(self, name))

    def run(
        self, forward: Callable[[Tensor], Output], images: Tensor, wanted: Iterable[str]
    ) -> tuple[Output, dict[str, Tensor]]:
        """Run a pass once; give its output and what the wanted taps took.

        Args:
            forward: What runs the module, or a part of it.
            images: Its input.
            wanted: Names of taps.
        """
        slots: Slots = dict.fromkeys(wanted)
        if torch.compiler.is_compiling():  # a compiler follows an attribute, but no context variable
            self.traced = slots
            try:
                output = forward(images)
            finally:
                self.traced = None
        else:
            token = _SLOTS.set(slots)
            try:
                output = forward(images)
            finally:
                _SLOTS.reset(token)
        return output, {name: taken for name, taken in slots.items() if taken is not None}


class _Tap:
    """The hook on one module; a class, so that a backbone can be copied and pickled with it."""

    def __init__(self, recorder: Recorder, name: str) -> None:
        self.recorder = recorder
        self.name = name

    def __call__(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        slots = self.recorder.traced if torch.compiler.is_compiling() else _SLOTS.get()
        if slots is not None and self.name in slots:
            slots[self.name] = output
