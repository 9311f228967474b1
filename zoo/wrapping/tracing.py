"""One dry run of a module, written down: what ran, in which order, and the shape that each part gave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Trace", "as_found", "trace"]

Shape = tuple[int, ...]


@dataclass
class Trace:
    """What one pass did.

    Args:
        output: What the module gave.
        shapes: Path to the shape of what was given, for all that ran once and gave one tensor.
        order: Path to the place in the order in which the parts came to their end, for all that ran.
    """

    output: Any = None
    shapes: dict[str, Shape] = field(default_factory=dict)
    order: dict[str, int] = field(default_factory=dict)
    _several: set[str] = field(default_factory=set)

    def note(self, path: str, output: Any) -> None:
        """Write down that a part came to its end."""
        if path in self.order or not isinstance(output, Tensor):
            self._several.add(path)
            self.shapes.pop(path, None)
        elif path not in self._several:
            self.shapes[path] = tuple(output.shape)
        self.order.setdefault(path, len(self.order))


@contextmanager
def as_found(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode for a while, without gradients, and give every part of it its own mode back."""
    modes = {part: part.training for part in module.modules()}
    try:
        with torch.no_grad():
            module.eval()
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def trace(module: nn.Module, inputs: Mapping[str, Tensor], *, keywords: bool) -> Trace:
    """Run a module once and write down what ran; whatever the module raises comes through."""
    found = Trace()
    hooks = [part.register_forward_hook(_noting(found, path)) for path, part in module.named_modules() if path]
    try:
        found.output = module(**inputs) if keywords else module(*inputs.values())
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _noting(found: Trace, path: str) -> Any:
    return lambda part, inputs, output: found.note(path, output)
