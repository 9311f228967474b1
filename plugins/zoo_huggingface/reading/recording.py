"""Taking what inner modules give out of a running pass, and ending the pass where nothing more is needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

__all__ = ["End", "Ended", "Skip", "record", "recording"]

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
        if torch.compiler.is_exporting() and args:
            return args[0]
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
        seen = _traced[-1] if torch.compiler.is_dynamo_compiling() and _traced else _current()
        if seen is not None:
            seen[self.path] = output


def _current() -> dict[str, Any] | None:
    return None if torch.compiler.is_dynamo_compiling() else _seen.get()


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
