"""How many labels there are."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from zoo.advising.questions import Question

__all__ = ["Size", "size_of"]


@dataclass(frozen=True, slots=True)
class Size:
    """The labelled rows of a task.

    Args:
        rows: How many there are.
        least: Rows of the rarest class or label; None for numbers.
        median: Rows of the class or label in the middle, of two the rarer one; None for numbers.
        imbalance: Rows of the commonest class or label divided by those of the rarest; None for numbers, and where a
            class has none.
        classes: Class or label to its rows, the rarest first; empty for numbers.
    """

    rows: int
    least: int | None
    median: int | None
    imbalance: float | None
    classes: dict[str, int]


def size_of(question: Question) -> Size:
    """Count the labels of a task."""
    if question.kind == "numbers":
        return Size(len(question), None, None, None, {})
    counts = question.counts().tolist()
    least = min(counts)
    return Size(
        rows=len(question),
        least=least,
        median=statistics.median_low(counts),
        imbalance=max(counts) / least if least else None,
        classes=dict(sorted(zip(question.names, counts, strict=True), key=lambda one: one[1])),
    )
