"""How a check says which rule is broken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from zoo.errors import ZooError

__all__ = ["near", "raises", "rule", "same"]


def rule(holds: bool, text: str) -> None:
    """Raise ``AssertionError(text)`` unless the rule holds."""
    if not holds:
        raise AssertionError(text)


def same(one: Tensor, other: Tensor, text: str) -> None:
    """Ask that two tensors are bit-equal."""
    rule(one.shape == other.shape and bool(one.eq(other).all()), text)


def near(one: Tensor, other: Tensor, text: str, tolerance: float) -> None:
    """Ask that two tensors differ by no more than a share of the largest value, and say by how much they do."""
    rule(one.shape == other.shape, f"{text} The shapes are {tuple(one.shape)} and {tuple(other.shape)}.")
    scale = max(float(one.detach().abs().max()), 1e-6) if one.numel() else 1.0
    apart = float((one.detach() - other.detach()).abs().max()) / scale if one.numel() else 0.0
    rule(apart <= tolerance, f"{text} They differ by {apart:.2g} of the largest value, {tolerance:g} is allowed.")


@contextmanager
def raises(error: type[ZooError], text: str) -> Iterator[None]:
    """Ask that the block raises a certain error of zoo."""
    try:
        yield
    except error:
        return
    except Exception as other:
        raise AssertionError(f"{text}, got {type(other).__name__}: {other}") from other
    raise AssertionError(f"{text}, and nothing was raised")
