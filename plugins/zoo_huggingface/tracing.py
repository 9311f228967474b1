"""A trial pass that shows the order in which a module's parts run, and what each output rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zoo_huggingface.reading import Reader, Reading
from zoo_huggingface.shadowing import Shadow

__all__ = ["LARGEST", "Trace", "trace", "used_by"]

LARGEST = 1_000_000_000
"""Parameters of a module that is still tried with real numbers."""


@dataclass(slots=True)
class Trace:
    """The order of a pass.

    Args:
        starts: Path of a module to the moment in which it first began.
        ends: Path of a module to the moment in which it last ended.
        made: Number of a tensor, as ``id`` gives it, to the path of the module that first gave it.
        kept: The tensors, kept so that no other gets their numbers.
        reading: What the pass gave.
    """

    starts: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    made: dict[int, str] = field(default_factory=dict)
    kept: list[Tensor] = field(default_factory=list)
    reading: Reading | None = None
    moment: int = 0

    def maker(self, tensor: Tensor) -> str:
        """Give the path of the module that gave a tensor; empty if only the whole pass did."""
        return self.made.get(id(tensor), "")


def trace(native: nn.Module, reader: Reader, inputs: Mapping[str, Tensor], device: torch.device) -> Trace:
    """Run a module once and note the order of its parts.

    Args:
        native: The module.
        reader: Runs it.
        inputs: Uniform input name to tensor.
        device: Where the pass makes what it makes itself.
    """
    found = Trace()
    handles = []
    for path, module in native.named_modules():
        if path:
            handles += [
                module.register_forward_pre_hook(_Start(found, path)),
                module.register_forward_hook(_Stop(found, path)),
            ]
    try:
        with device, Shadow():
            found.reading = reader.run(native, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


class _Start:
    def __init__(self, found: Trace, path: str) -> None:
        self.found, self.path = found, path

    def __call__(self, module: nn.Module, args: Any) -> None:
        self.found.moment += 1
        self.found.starts.setdefault(self.path, self.found.moment)


class _Stop(_Start):
    def __call__(self, module: nn.Module, args: Any, output: Any = None) -> None:
        self.found.moment += 1
        self.found.ends[self.path] = self.found.moment
        for tensor in _tensors(output):
            if id(tensor) not in self.found.made:
                self.found.made[id(tensor)] = self.path
                self.found.kept.append(tensor)


def _tensors(output: Any) -> list[Tensor]:
    """List the tensors that stand first in an output: itself, or of each item the first."""
    if isinstance(output, Tensor):
        return [output]
    items = list(output.values()) if isinstance(output, dict) else output
    if isinstance(items, (tuple, list)) and items and isinstance(items[0], Tensor):
        return [items[0]]
    return []


def used_by(native: nn.Module, wanted: list[Tensor]) -> set[str]:
    """Name the parameters that get a gradient from any of the tensors, and those that never want one.

    Of a module that does not go backward without numbers, and is too large to be asked again with them, all is taken
    for used.

    Args:
        native: The module that ran.
        wanted: What it gave.

    Raises:
        NotImplementedError: If it does not go backward without numbers, and can be asked again.
    """
    named = dict(native.named_parameters(remove_duplicate=False))
    names = [name for name, parameter in named.items() if parameter.requires_grad]
    parameters = [named[name] for name in names]
    roots = [tensor for tensor in wanted if tensor.requires_grad]
    fixed = {name for name, p in native.named_parameters(remove_duplicate=False) if not p.requires_grad}
    if not roots:
        return fixed
    total = sum((root.sum() for root in roots), start=roots[0].new_zeros(()))
    try:
        grads = torch.autograd.grad(total, parameters, allow_unused=True, retain_graph=True)
    except AssertionError:  # reversible layers, which go backward in training only: all of it is taken for used
        return fixed | set(names)
    except NotImplementedError:
        if sum(parameter.numel() for parameter in named.values()) <= LARGEST:
            raise
        return fixed | set(names)
    return fixed | {name for name, grad in zip(names, grads, strict=True) if grad is not None}
