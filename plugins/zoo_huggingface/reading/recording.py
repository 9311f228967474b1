"""Taking what inner modules give out of a running pass, and ending the pass where nothing more is needed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import nn

__all__ = ["End", "Ended", "Skip", "record", "recording", "run"]

# What the pass of this thread gives, module path to output; None while nobody records. A compiler cannot follow a
# context variable: while it traces, which it does in one thread at a time, the list stands in.
_seen: ContextVar[dict[str, Any] | None] = ContextVar("zoo_huggingface_seen", default=None)
_traced: list[dict[str, Any]] = []


class Ended(Exception):
    """Raised where a pass may end."""


class End(nn.Module):
    """What stands in for a module that was cut off: where a pass comes to it, the pass is over."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """End the pass; while it is exported, which would lose count of the modules, let it run on for nothing."""
        given = (*args, *kwargs.values())
        if torch.compiler.is_exporting() and given:
            return given[0]
        raise Ended

    def __getitem__(self, index: Any) -> End:
        """Stand in for a list of modules, too."""
        return self


class Skip(nn.Module):
    """What stands in for a module whose output nobody reads: it gives what it gets."""

    def forward(self, state: Any, *args: Any, **kwargs: Any) -> Any:
        """Give the first argument."""
        return state


class _Recorder:
    """A forward hook that keeps a module's output, if the pass is recorded."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        seen = None if torch.compiler.is_dynamo_compiling() else _seen.get()
        if seen is None and _traced:  # traced, or run between two graphs of a pass that is
            seen = _traced[-1]
        if seen is not None:
            seen[self.path] = output


def run(tower: Any, arguments: Mapping[str, Any]) -> Any:
    """Run a module in a recorded pass; it is None where the pass ended early.

    Where a compiler gave up on the pass, which it does if the module breaks its graph, it may not take up the parts of
    it either, since what it traces apart is not recorded.
    """
    given_up = not torch.compiler.is_dynamo_compiling() and "torch._dynamo" in sys.modules
    try:  # a compiler follows this, and not a context that swallows
        return _uncompiled()(tower, arguments) if given_up else tower(**arguments)
    except Ended:
        return None


@cache
def _uncompiled() -> Callable[[Any, Mapping[str, Any]], Any]:
    return torch.compiler.disable(lambda tower, arguments: tower(**arguments))


def record(native: nn.Module, paths: Iterable[str]) -> None:
    """Have the outputs of modules kept in every recorded pass."""
    for path in dict.fromkeys(paths):
        native.get_submodule(path).register_forward_hook(_Recorder(path))


@contextmanager
def recording() -> Iterator[dict[str, Any]]:
    """Give the mapping, path to output, that a pass inside fills."""
    seen: dict[str, Any] = {}
    if torch.compiler.is_dynamo_compiling():
        _traced.append(seen)
        try:
            yield seen
        finally:
            _traced.pop()
        return
    token = _seen.set(seen)
    try:
        yield seen
    finally:
        _seen.reset(token)
