"""Which tensors of a checkpoint are the backbone's, which the classifier's, and which are neither."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zoo.errors import WeightsError

__all__ = ["Classifying", "classifier_of", "left_over", "prefix_of"]


@dataclass(frozen=True, slots=True)
class Classifying:
    """A linear classifier in a checkpoint.

    Args:
        path: Its path there.
        weight: ``(K, D)``.
        bias: ``(K,)``; None if it has none.
    """

    path: str
    weight: Tensor
    bias: Tensor | None


def prefix_of(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], where: Path) -> str:
    """Find what the keys of the backbone begin with in a checkpoint: ``module.``, ``model.``, ``vit.`` or nothing.

    It is the prefix under which most of the backbone's own keys are found.

    Args:
        tensors: The checkpoint's tensors.
        own: The backbone's.
        where: The file, for the message.

    Raises:
        WeightsError: If none of the keys is there, or all of them are there under two prefixes.
    """
    counts: Counter[str] = Counter()
    for key in tensors:
        steps = key.split(".")
        counts.update(
            ".".join(steps[:at]) + "." if at else "" for at in range(len(steps)) if ".".join(steps[at:]) in own
        )
    if not counts:
        raise WeightsError(
            f"{where} cannot be converted: none of its {len(tensors)} tensors (first {next(iter(tensors), None)!r}) is "
            f"called as one of the backbone's (first {next(iter(own), None)!r}); is it of another architecture?"
        )
    best = max(counts.values())
    leading = sorted(prefix for prefix, count in counts.items() if count == best)
    if len(leading) > 1:
        told = " and ".join(f"{prefix!r}" for prefix in leading)
        raise WeightsError(f"{where} cannot be converted: it holds the backbone more than once, under {told}.")
    return leading[0]


def left_over(tensors: Mapping[str, Tensor], native: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors that are not the backbone's.

    A provider may read a tensor under another name than its file has; what is bit-equal to a tensor of the backbone
    that the file does not name was read.

    Args:
        tensors: The checkpoint's tensors, the prefix taken off.
        native: The backbone's, once they were poured in.
    """
    unnamed = [tensor for key, tensor in native.items() if key not in tensors]
    over = {key: tensor for key, tensor in tensors.items() if key not in native}
    return {key: tensor for key, tensor in over.items() if not any(_same(tensor, one) for one in unnamed)}


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


def classifier_of(tensors: Mapping[str, Tensor], width: int) -> Classifying | None:
    """Find a linear classifier that is all that is left of a checkpoint.

    Args:
        tensors: What is left.
        width: Width of the pooled vector.

    Returns:
        The classifier; None if what is left is anything else.
    """
    paths = {key.rpartition(".")[0] for key in tensors}
    if len(paths) != 1:
        return None
    path = paths.pop()
    weight, bias = tensors.get(f"{path}.weight"), tensors.get(f"{path}.bias")
    if weight is None or weight.ndim != 2 or weight.shape[1] != width or len(tensors) > (1 if bias is None else 2):
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    return Classifying(path, weight, bias)
