"""Batches: what a model takes, made of what its preparers gave row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from zoo.data.handing import Inputs, Preparer

if TYPE_CHECKING:
    import torch

__all__ = ["PRESENT", "batched", "placed", "prepared"]

PRESENT = "present"
"""Key of what says which samples have an input, among the inputs of a batch."""


def batched(preparers: Mapping[str, Preparer], made: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Make a batch.

    Args:
        preparers: Key to preparer, as a model gives them.
        made: Key to what that preparer gave, a row each.

    Returns:
        Key to tensors, and under :data:`PRESENT`, for an input that some rows lack, its name to ``(B,)`` bool.

    Raises:
        ShapeError: If the pictures differ in size.
    """
    inputs: dict[str, Any] = {}
    present = {}
    for key, preparer in preparers.items():
        inputs[key], there = preparer.batch(made[key])
        if there is not None:
            present[preparer.input] = there
    return {**inputs, PRESENT: present} if present else inputs


def prepared(
    preparers: Mapping[str, Preparer], rows: Sequence[Inputs], pool: ThreadPoolExecutor | None = None
) -> dict[str, Any]:
    """Open and prepare rows of samples, and make a batch of them.

    Args:
        preparers: Key to preparer, as a model gives them.
        rows: Input name to sample, a row.
        pool: Threads that open samples; None to open them one by one.

    Raises:
        DataError: If a sample cannot be read, or is missing.
        ShapeError: If the pictures differ in size.
    """
    made: dict[str, list[Any]] = {}
    for key, preparer in preparers.items():
        samples = [row.get(preparer.input) for row in rows]
        made[key] = list((pool.map if pool is not None else map)(preparer.one, samples))
    return batched(preparers, made)


def placed(batch: Any, place: torch.device) -> Any:
    """Move the tensors of a batch, which may be nested in mappings, to a device."""
    if isinstance(batch, Mapping):
        return {key: placed(value, place) for key, value in batch.items()}
    return batch.to(place)
