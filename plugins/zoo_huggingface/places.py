"""Where in a checkpoint of several models the tensors of one of them lie."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from zoo.errors import WeightsError

__all__ = ["find_place", "only_under"]


def find_place(who: str, own: Iterable[str], published: Iterable[str]) -> str:
    """Find the prefix under which a checkpoint has a module's tensors.

    It is the one under which most of the module's names are found; whether all are there, loading says.

    Args:
        who: The reference, for messages.
        own: Names of the module's tensors.
        published: Names in the checkpoint.

    Returns:
        The prefix, with the dot at its end; empty if the names are the module's own.

    Raises:
        WeightsError: If no name is found, or two prefixes fit as well.

    Example:
        >>> find_place("hf:./folder#vision", ["blocks.0.weight"], ["lm_head.weight", "model.visual.blocks.0.weight"])
        'model.visual.'
    """
    names = set(own)
    found: Counter[str] = Counter()
    for key in published:
        pieces = key.split(".")
        for length in range(len(pieces)):
            if ".".join(pieces[length:]) in names:
                found[".".join([*pieces[:length], ""]) if length else ""] += 1
    best = found.most_common(2)
    if not best:
        raise WeightsError(f"{who}: the weights there have no tensor of this part.")
    if len(best) > 1 and best[0][1] == best[1][1]:
        raise WeightsError(f"{who}: the weights there have two such parts, under {best[0][0]!r} and {best[1][0]!r}.")
    return best[0][0]


def only_under(prefix: str) -> dict[str, str]:
    """Give the renaming by which transformers takes what lies under a prefix, and nothing else."""
    escaped = re.escape(prefix)
    return {f"^(?!{escaped})": "elsewhere.", f"^{escaped}": ""} if prefix else {}
