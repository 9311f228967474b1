"""What can be chosen: one of several values, or a number of a range; and how a choice is written down."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from zoo.errors import ConfigError

__all__ = ["Choice", "Pick", "Range", "label", "one_of", "pick_randomly", "read_choice", "read_range"]


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers to choose from.

    Args:
        low: The least.
        high: The greatest, above ``low``.
        log: Whether every factor is as likely as any other, as for learning rates; ``low`` is above 0 then.

    Raises:
        ConfigError: If they are no range.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        """Check the ends."""
        numbers = all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in (self.low, self.high))
        if not numbers or not math.isfinite(self.low) or not math.isfinite(self.high) or not self.low < self.high:
            raise ConfigError(f"A range must go from a number to a greater one, got {self.low!r} to {self.high!r}.")
        if not isinstance(self.log, bool) or (self.log and self.low <= 0):
            raise ConfigError(f"A logarithmic range must begin above 0, got {self.low!r}.")


Choice = tuple[Any, ...] | Range
Pick = Callable[[str, Choice], Any]
"""Takes the name of a choice and what there is to choose, and gives what was chosen."""


def read_range(where: str, given: Any) -> Range:
    """Read a range of rates: itself, ``(low, high)``, or a mapping as a file has it; of these two, logarithmic.

    Raises:
        ConfigError: If it is none.
    """
    if isinstance(given, Range):
        return given
    try:
        if isinstance(given, Mapping):
            return Range(**{"log": True, **given})
        low, high = given
        return Range(low, high, log=True)
    except (TypeError, ValueError) as error:
        reason = f" {error}" if isinstance(error, ConfigError) else ""
        raise ConfigError(f"{where} must be a range such as [0.0001, 0.01], got {given!r}.{reason}") from error


def read_choice(where: str, given: Any) -> Choice:
    """Read a choice: a range, a list of values, or a single value.

    Raises:
        ConfigError: If there is nothing to choose.
    """
    if isinstance(given, Range):
        return given
    if isinstance(given, Mapping) and {"low", "high"} <= set(given):
        return read_range(where, given)
    return one_of(where, given if isinstance(given, Sequence) and not isinstance(given, str) else (given,))


def one_of(where: str, given: Sequence[Any]) -> tuple[Any, ...]:
    """Check a list of values to choose from.

    Raises:
        ConfigError: If it is empty, or has a value twice or one that is no JSON.
    """
    try:
        labels = [label(value) for value in given]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where} must have plain values to choose from, got {given!r}.") from error
    if not labels:
        raise ConfigError(f"{where} has nothing to choose from; give one value or more.")
    if len(set(labels)) < len(labels):
        raise ConfigError(f"{where} has a value twice: {given!r}.")
    return tuple(given)


def label(value: Any) -> str:
    """Write a value of a choice as text."""
    return json.dumps(value if not isinstance(value, Range) else asdict(value), sort_keys=True, allow_nan=False)


def pick_randomly(drawn: random.Random) -> Pick:
    """Give what picks each value of a list with the same chance, and of a range evenly."""

    def pick(_: str, choice: Choice) -> Any:
        if isinstance(choice, tuple):
            return choice[drawn.randrange(len(choice))]
        if choice.log:
            return math.exp(drawn.uniform(math.log(choice.low), math.log(choice.high)))
        return drawn.uniform(choice.low, choice.high)

    return pick
