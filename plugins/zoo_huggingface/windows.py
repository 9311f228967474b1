"""Windows of attention that a pass would change for good: each pass begins with those that were built."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["keep_windows"]

_CHANGES = "set_shift_and_window_size"


def keep_windows(native: nn.Module) -> None:
    """Let every layer that adapts its windows to a picture forget it before the next.

    transformers' Swin layers set shift and window once a grid is no larger than a window, and never set them back, so
    that what a larger picture gives would depend on the pictures before it.
    """
    for module in native.modules():
        if hasattr(module, _CHANGES):
            module.register_forward_pre_hook(_Windows(module))


class _Windows:
    """The hook on one layer; a class, so that a backbone can be copied and pickled with it."""

    def __init__(self, layer: Any) -> None:
        self.window, self.shift = layer.window_size, layer.shift_size

    def __call__(self, layer: Any, inputs: object) -> None:
        layer.window_size, layer.shift_size = self.window, self.shift
