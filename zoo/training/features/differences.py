"""How far features of reduced precision are from those of the full one, on a few samples."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from zoo.data import Inputs, placed
from zoo.model import Model
from zoo.training.features.passes import PrefixPass, WholePass

__all__ = ["difference"]

MEASURED = 8
"""Samples on which it is measured."""


def difference(model: Model, through: WholePass | PrefixPass, rows: Sequence[Inputs], place: torch.device) -> float:
    """Give the largest difference between what a pass gives and what it gives in full precision.

    Args:
        model: The model.
        through: The pass in reduced precision.
        rows: Samples; the first few are taken.
        place: Where to run.

    Returns:
        The largest difference of a value, as a share of the largest value of its tensor.
    """
    with ThreadPoolExecutor(max_workers=4) as pool:
        inputs = placed(model.preprocess(rows[:MEASURED], pool), place)
    found = []
    for one in (through.full(), through):
        with one.ready(place), torch.no_grad():
            found.append(one.run(inputs))
    shares = [0.0]
    for key, exact in found[0].items():
        if exact.is_floating_point() and (span := float(exact.abs().max())) > 0:
            shares.append(float((found[1][key].float() - exact.float()).abs().max()) / span)
    return max(shares)
