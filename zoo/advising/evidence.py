"""The evidence of one task: its size, and how far each kind of features separates its labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from zoo.advising.linear_probe import linear_probe
from zoo.advising.logme import logme
from zoo.advising.neighbours import neighbours
from zoo.advising.questions import Kind, Question
from zoo.advising.scoring import gain, gain_error
from zoo.advising.size import Size
from zoo.errors import DataError

__all__ = ["PRETRAINED", "Separability", "TaskEvidence", "collect"]

PRETRAINED = "pretrained"


@dataclass(frozen=True, slots=True)
class Separability:
    """How far features separate the labels of a task; skill is 0 for guessing and 1 for no error.

    Args:
        features: ``pretrained``; ``untrained``, of the same architecture with random weights; or ``pixels``.
        linear: Skill of a linear model on rows that it had not seen; of numbers R².
        neighbours: Skill of the five nearest neighbours, each row left out in turn; of numbers R².
        logme: LogME above that of no features, in nats a row.
    """

    features: str
    linear: float
    neighbours: float
    logme: float


@dataclass(frozen=True, slots=True)
class TaskEvidence:
    """What was measured of a task.

    Args:
        task: Its name.
        column: Its label column.
        kind: ``classes``, ``labels`` or ``numbers``.
        size: Its labels in all training rows.
        rows: Rows on which features were measured.
        left_out: Classes or labels with too few of these rows to be measured.
        separability: One entry for each kind of features, the pretrained ones first.
        reference: Which of the features without pretraining a linear model separates best.
        gain: Share of the reference's linear errors that pretrained features do away with.
        gain_error: Its standard error.
        neighbours_gain: The same share for nearest neighbours.
    """

    task: str
    column: str
    kind: Kind
    size: Size
    rows: int
    left_out: tuple[str, ...]
    separability: tuple[Separability, ...]
    reference: str
    gain: float
    gain_error: float
    neighbours_gain: float

    @property
    def pretrained(self) -> Separability:
        """How far the pretrained features separate the labels."""
        return self.separability[0]


def collect(
    question: Question,
    features: Mapping[str, Tensor],
    *,
    column: str,
    size: Size,
    left_out: tuple[str, ...],
    seed: int,
) -> TaskEvidence:
    """Measure how far features separate the labels of a task.

    Args:
        question: The labels, those that can be measured.
        features: Kind of features to ``(n, D)``, the rows of the question: ``pretrained``, and one or more without
            pretraining.
        column: The label column.
        size: The size of the task in all rows.
        left_out: What cannot be measured.
        seed: Seed of folds and of the standard error.

    Raises:
        DataError: If the pretrained features are no numbers, or do not vary.
    """
    found, guesses = [], {}
    for name, held in features.items():
        if not bool(held.isfinite().all()) or bool((held == held[0]).all()):
            if name != PRETRAINED:
                continue
            raise DataError(
                f"The features of the backbone for {question.task!r} are not finite or the same for all rows, so they "
                "say nothing; look at its weights and its preprocessing."
            )
        linear, guesses[name] = linear_probe(held, question, seed=seed)
        found.append(Separability(name, linear, neighbours(held, question), logme(held, question)))
    pretrained, *others = found
    if not others:
        raise DataError(
            f"There are no features without pretraining to compare those of {question.task!r} with; choose its method "
            "yourself."
        )
    reference = max(others, key=lambda one: -math.inf if math.isnan(one.linear) else one.linear)
    return TaskEvidence(
        task=question.task,
        column=column,
        kind=question.kind,
        size=size,
        rows=len(question),
        left_out=left_out,
        separability=tuple(found),
        reference=reference.features,
        gain=gain(pretrained.linear, reference.linear),
        gain_error=gain_error(
            question.kind, question.target, guesses[PRETRAINED], guesses[reference.features], seed=seed
        ),
        neighbours_gain=gain(pretrained.neighbours, max(one.neighbours for one in others)),
    )
