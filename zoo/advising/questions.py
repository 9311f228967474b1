"""What a task asks of the features, as numbers that every measure reads alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zoo.contracts.head import Label, Task
from zoo.errors import DataError

__all__ = ["Kind", "Question", "ask", "measurable"]

Kind = Literal["classes", "labels", "numbers"]
"""One class a row, any number of labels a row, or one number a row."""

LEAST = 2
"""Rows of a class that must be there for it to be measured: one to learn from, one to be judged by."""
LEAST_NUMBERS = 10
"""Rows with a number that must be there, so that each fifth of them has two."""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """The labels of one task.

    Args:
        task: Its name.
        kind: What its labels are.
        names: Names of the classes or labels; empty for numbers.
        target: Class indices, 0 and 1 a label, or numbers.
        rows: The rows of the table that have a label.

    Shape:
        - ``target``: ``(n,)`` int64, ``(n, K)`` bool or ``(n,)`` float64.
        - ``rows``: ``(n,)`` int64.
    """

    task: str
    kind: Kind
    names: tuple[str, ...]
    target: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def counts(self) -> Tensor:
        """Count the rows of each class or label, ``(K,)`` int64; of numbers there is one count, of all."""
        if self.kind == "classes":
            return torch.bincount(self.target, minlength=len(self.names))
        return self.target.sum(dim=0) if self.kind == "labels" else torch.tensor([len(self.target)])

    def at(self, chosen: Tensor) -> Question:
        """Take some of its rows, by their place in ``rows``."""
        return Question(self.task, self.kind, self.names, self.target[chosen], self.rows[chosen])


def ask(name: str, task: Task, labels: Sequence[Label]) -> Question:
    """Read the labels of a task.

    Args:
        name: The task's name.
        task: The task.
        labels: One a row; None where there is none.

    Raises:
        DataError: If it learns masks, or targets of another form than classes, labels and numbers, or has no label.
    """
    who = f"The head {name!r} ({task.spec.type})"
    if task.masks is not None:
        raise DataError(f"{who} learns masks, and advice is for labels of whole samples; choose its method yourself.")
    target = task.encode(labels)
    known = task.known(target)
    rows = known.nonzero().squeeze(1)
    if not len(rows):
        raise DataError(f"{who} has no label in the training rows, so there is nothing to judge by.")
    target = target[known]
    if not target.is_floating_point() and target.ndim == 1:
        found, indices = torch.unique(target, return_inverse=True)
        names = _names(task, found)
        return Question(name, "classes", names, indices, rows)
    if target.is_floating_point() and target.ndim == 2 and bool(((target == 0) | (target == 1)).all()):
        return Question(name, "labels", _names(task, torch.arange(target.shape[1])), target > 0, rows)
    if target.is_floating_point() and target.ndim == 1:
        return Question(name, "numbers", (), target.double(), rows)
    raise DataError(
        f"{who} has targets of shape {tuple(target.shape)}, and advice reads one class, several labels or one number "
        "a row; choose its method yourself."
    )


def measurable(question: Question) -> tuple[Question, tuple[str, ...]]:
    """Leave out what cannot be measured: classes of a single row, labels that almost all rows have or lack.

    Returns:
        What is left, and the names of the classes or labels that were left out.

    Raises:
        DataError: If too little is left.
    """
    if question.kind == "numbers":
        if len(question) < LEAST_NUMBERS or bool((question.target == question.target[0]).all()):
            raise DataError(
                f"The numbers of {question.task!r} must be {LEAST_NUMBERS} or more and not all the same to be judged, "
                f"got {len(question)}."
            )
        return question, ()
    counts = question.counts()
    enough = counts >= LEAST
    if question.kind == "labels":
        enough &= len(question) - counts >= LEAST
    out = tuple(name for name, stays in zip(question.names, enough.tolist(), strict=True) if not stays)
    names = tuple(name for name in question.names if name not in out)
    if len(names) < (2 if question.kind == "classes" else 1):
        what = "two classes" if question.kind == "classes" else "one label"
        got = ", ".join(f"{n} {count}" for n, count in list(zip(question.names, counts.tolist(), strict=True))[:8])
        raise DataError(
            f"The rows of {question.task!r} must have {what} or more with {LEAST} rows each to be judged, got {got}."
        )
    if question.kind == "labels":
        kept = question.target[:, enough]
        return Question(question.task, "labels", names, kept, question.rows), out
    chosen = enough[question.target]
    renumbered = (enough.cumsum(0) - 1)[question.target[chosen]]
    return Question(question.task, "classes", names, renumbered, question.rows[chosen]), out


def _names(task: Task, found: Tensor) -> tuple[str, ...]:
    """Name the classes of some indices; those of a task that knows no names are numbers."""
    known = getattr(task.config, "classes", None)
    return tuple(known[i] if known is not None and 0 <= i < len(known) else str(i) for i in found.tolist())
