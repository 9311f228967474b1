"""The rule: from size and similarity to a quadrant, and from a quadrant to a method with its settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from zoo.advising.evidence import TaskEvidence

__all__ = ["RULES", "Likeness", "Measure", "Placement", "Rule", "place", "rule_of"]

Measure = Literal["small", "large"]
Likeness = Literal["similar", "different"]

LARGE_CLASS = 200
"""Rows of the class in the middle from which on data is large. Practice, not measured: below some hundred a class, what
a backbone has learnt is adapted and not replaced, and the low-data benchmarks of the field lie there (VTAB-1k has 1,000
rows for 2 to 397 classes; Zhai et al., 2019, arXiv:1910.04867)."""
LARGE_NUMBERS = 1000
"""The same for rows with a number: five classes' worth, since an R² is judged on five folds."""
NEAR_SIZE = 1.5
"""Factor within which a size is near the threshold: half as many rows again are soon labelled."""
SIMILAR = 0.5
"""Gain from which on data is similar: pretraining does away with most of the errors that are made without it."""
ENOUGH = 0.95
"""Linear skill of frozen features from which on data is similar whatever the gain: a twentieth of guessing's errors
is left, so there is hardly anything that training the backbone could win."""

BATCH, VALIDATION = 32, 0.2
"""What ``zoo.fit`` does where nobody says otherwise: rows in a step, and share of the rows that is held out."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a task lies.

    Args:
        size: ``small`` or ``large``.
        similarity: ``similar`` or ``different``.
        near_size: Whether the size is near its threshold.
        near_similarity: Whether the similarity is, within a standard error.
    """

    size: Measure
    similarity: Likeness
    near_size: bool
    near_similarity: bool

    @property
    def quadrant(self) -> str:
        """The name of the quadrant, such as ``small and similar``."""
        return f"{self.size} and {self.similarity}"

    def neighbours(self) -> tuple[tuple[Measure, Likeness], ...]:
        """Give the quadrants that it is near."""
        other_size: Measure = "large" if self.size == "small" else "small"
        other_likeness: Likeness = "different" if self.similarity == "similar" else "similar"
        found: list[tuple[Measure, Likeness]] = []
        if self.near_size:
            found.append((other_size, self.similarity))
        if self.near_similarity:
            found.append((self.size, other_likeness))
        return tuple(found)


def place(evidence: TaskEvidence) -> Placement:
    """Place a task in a quadrant."""
    numbers = evidence.kind == "numbers"
    rows, bound = (evidence.size.rows, LARGE_NUMBERS) if numbers else (evidence.size.median or 0, LARGE_CLASS)
    skill, gain, error = evidence.pretrained.linear, evidence.gain, evidence.gain_error
    enough = skill >= ENOUGH
    return Placement(
        size="large" if rows >= bound else "small",
        similarity="similar" if enough or gain >= SIMILAR else "different",
        near_size=bound / NEAR_SIZE <= rows < bound * NEAR_SIZE,
        near_similarity=not enough and (not math.isfinite(error) or abs(gain - SIMILAR) <= error),
    )


@dataclass(frozen=True, slots=True)
class Budget:
    """How long is trained: in steps, since an epoch of few rows is few of them, held between two numbers of epochs.

    Args:
        steps: Optimizer steps that are wanted.
        least: Fewest epochs.
        most: Most epochs.
    """

    steps: int
    least: int
    most: int

    def epochs(self, rows: int) -> int:
        """Give the number of epochs for so many training rows, a part of them held out for validation."""
        batches = max(1, round(rows * (1 - VALIDATION) / BATCH))
        return min(self.most, max(self.least, math.ceil(self.steps / batches)))


@dataclass(frozen=True, slots=True)
class Rule:
    """What is advised in a quadrant.

    Args:
        size: Of the quadrant.
        similarity: Of the quadrant.
        method: The method.
        reason: Why, in a sentence.
        budget: How long is trained.
        own: The method's own settings.
        settings: Those of ``zoo.fit`` besides the epochs. Of large data no patience: the rate falls to nothing over
            the run, and early stopping would end it while the rate is high.
        warnings: What to know besides.
    """

    size: Measure
    similarity: Likeness
    method: str
    reason: str
    budget: Budget
    own: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


RULES: Mapping[tuple[Measure, Likeness], Rule] = MappingProxyType(
    {
        (rule.size, rule.similarity): rule
        for rule in (
            Rule(
                size="small",
                similarity="similar",
                method="feature_extraction",
                reason="the frozen features hold most of what the labels ask for, and few rows would overfit the rest",
                budget=Budget(600, least=20, most=100),
                settings={"lr": 3e-3, "weight_decay": 0.01, "patience": 10},
            ),
            Rule(
                size="large",
                similarity="similar",
                method="partial",
                reason="there are rows enough to adapt the last stages, and those below are right as they are",
                own={"stages": 2},
                budget=Budget(600, least=6, most=30),
                settings={"lr": 1e-3, "weight_decay": 0.05},
            ),
            Rule(
                size="large",
                similarity="different",
                method="fine_tuning",
                reason="the features lack most of what the labels ask for, and there are rows enough to learn it",
                budget=Budget(600, least=6, most=30),
                settings={"lr": 1e-3, "weight_decay": 0.05, "augmentation": "light"},
                warnings=(
                    "With data this different, training from scratch is worth comparing: weights=None, and many more "
                    "epochs.",
                ),
            ),
            Rule(
                size="small",
                similarity="different",
                method="partial",
                reason="the features lack much of what the labels ask for, and there are too few rows to learn it all",
                own={"stages": 1},
                budget=Budget(200, least=10, most=40),
                settings={"lr": 1e-3, "weight_decay": 0.1, "patience": 8, "augmentation": "light"},
                warnings=(
                    "Few rows, and features that were made for something else: no method is safe here. Label more "
                    "rows, try a backbone that was pretrained on something nearer, and compare feature_extraction, "
                    "which costs next to nothing.",
                ),
            ),
        )
    }
)


def rule_of(placement: Placement) -> Rule:
    """Give the rule of a quadrant."""
    return RULES[placement.size, placement.similarity]
