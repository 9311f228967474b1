"""Functions that take what another one takes: its parameters, its docstring, a body of their own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["alike"]

P = ParamSpec("P")
R = TypeVar("R")


def alike(original: Callable[P, object]) -> Callable[[Callable[..., R]], Callable[P, R]]:
    """Give a function the parameters and the docstring of another; so the two cannot come apart.

    Args:
        original: The function whose parameters it takes.

    Example:
        >>> def double(number: int) -> int:
        ...     '''Double a number.'''
        >>> @alike(double)
        ... def quadruple(*given, **named):
        ...     return 4
        >>> quadruple.__doc__
        'Double a number.'
    """

    def take(function: Callable[..., R]) -> Callable[P, R]:
        return functools.wraps(original, assigned=("__name__", "__qualname__", "__doc__"))(function)

    return take
