"""The dry runs of a module: on an example, and on pictures of a second size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from zoo.contracts.examples import LENGTHS, example_input
from zoo.errors import ConfigError
from zoo.spec import InputSpec
from zoo.wrapping.backbone import Layout
from zoo.wrapping.layouts import Seen, Sizes, see
from zoo.wrapping.tracing import Trace, trace

__all__ = ["Look", "look"]


@dataclass
class Look:
    """What the dry runs showed."""

    entries: tuple[InputSpec, ...]
    keywords: bool
    first: Trace
    other: Trace | None
    sizes: Sizes | None
    layout: Layout | None
    prefix: int | None
    grids: frozenset[tuple[int, int]] = frozenset()

    def read(self, path: str) -> Seen | None:
        """Read what a part gives as a map; None if it is none, or cannot be told from a vector of tokens."""
        if path not in self.first.shapes:
            return None
        return self.see(f"The module {path!r}", self.first.shapes[path], self._other(path))

    def _other(self, path: str) -> tuple[int, ...] | None:
        return None if self.other is None else self.other.shapes.get(path)

    def see(self, what: str, shape: tuple[int, ...], other: tuple[int, ...] | None) -> Seen | None:
        """Read a shape as a map, with what the user said."""
        if self.sizes is None or (self.sizes.other is not None and other is None):
            return None
        return see(what, self.sizes, shape, other, layout=self.layout, prefix=self.prefix, grids=self.grids)


def look(
    module: nn.Module,
    entries: tuple[InputSpec, ...],
    example: Mapping[str, Tensor],
    keywords: bool,
    *,
    layout: Layout | None,
    prefix: int | None,
) -> Look:
    """Run the module on the example and, for pictures, on one that is twice as high; for others, on another length."""
    own = next(module.parameters(), torch.zeros(()))
    tensors = {k: t.to(own.device, own.dtype if t.is_floating_point() else t.dtype) for k, t in example.items()}
    first = _run(module, tensors, keywords)
    entries = _with_lengths(module, entries, tensors, keywords)
    other, sizes = None, None
    if entries[0].kind == "image" and len(entries) == 1:
        main = tensors[entries[0].name]
        height, width = int(main.shape[-2]), int(main.shape[-1])
        try:
            taller = main.new_zeros(*main.shape[:2], 2 * height, width)
            other = trace(module, {entries[0].name: taller}, keywords=keywords)
            if other.output.ndim == 2 and other.output.shape != first.output.shape:
                other = None
        except Exception:  # what a stranger's module raises over a size that it does not take has no common type
            other = None
        sizes = Sizes((height, width), None if other is None else (2 * height, width))
    grids = frozenset((shape[2], shape[3]) for shape in first.shapes.values() if len(shape) == 4)
    return Look(entries, keywords, first, other, sizes, layout, prefix, grids)


def _with_lengths(
    module: nn.Module, entries: tuple[InputSpec, ...], tensors: Mapping[str, Tensor], keywords: bool
) -> tuple[InputSpec, ...]:
    """Say of a module that takes only as many tokens, samples or steps as the example has that it does so."""
    long = [entry for entry in entries if entry.kind in LENGTHS and entry.kind != "video" and entry.length is None]
    if not long:
        return entries
    generator = torch.Generator().manual_seed(0)
    usual = {entry.name: example_input(entry, len(tensors[entry.name]), generator) for entry in long}
    try:
        trace(module, {name: usual.get(name, tensor).to(tensor) for name, tensor in tensors.items()}, keywords=keywords)
    except Exception:  # what a stranger's module raises over a length that it does not take has no common type
        return tuple(
            replace(entry, length=int(tensors[entry.name].shape[-1]), fixed_length=True) if entry in long else entry
            for entry in entries
        )
    return entries


def _run(module: nn.Module, tensors: Mapping[str, Tensor], keywords: bool) -> Trace:
    who = type(module).__name__
    told = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
    try:
        found = trace(module, tensors, keywords=keywords)
    except Exception as error:  # what a stranger's module raises has no common type
        reason = f"{type(error).__name__}: {str(error).rstrip('.')}"
        raise ConfigError(
            f"{who} cannot be run on {told}: {reason}. Pass an example batch that it takes as inputs=…, a dict of "
            "them if it takes several by name."
        ) from error
    output, rows = found.output, len(next(iter(tensors.values())))
    if not isinstance(output, Tensor):
        raise ConfigError(
            f"{who} must give one tensor, got {type(output).__name__}; wrap a module whose forward gives the tensor "
            "to pool."
        )
    if output.ndim not in (2, 3, 4) or output.shape[0] != rows:
        raise ConfigError(
            f"{who} must give a vector (B, D), tokens (B, N, D) or a map for each row, got {tuple(output.shape)} for "
            f"{rows} rows; wrap a module whose forward gives one of them."
        )
    return found
