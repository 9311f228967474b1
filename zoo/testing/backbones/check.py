"""A check: one rule of the backbone contract, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from zoo.testing.backbones.subject import Subject

__all__ = ["Check", "Outcome", "Unfit", "check", "registered"]

Run = Callable[["Subject"], None]


class Unfit(Exception):
    """Raised by a check that does not apply to a backbone; the message says why."""


@dataclass(frozen=True, slots=True)
class Check:
    """One rule.

    Args:
        name: Its name, which ``only`` and ``skip`` take.
        summary: What must hold, in one sentence.
        run: Raises ``AssertionError`` if the rule is broken, and :class:`Unfit` where it does not apply.
        needs: Capabilities without which it does not apply.
        long: Whether it may take many times as long as the others.
    """

    name: str
    summary: str
    run: Run
    needs: tuple[str, ...] = ()
    long: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a check.

    Args:
        name: The check's name.
        summary: What must hold.
        result: ``passed``, ``failed`` or ``skipped``.
        reason: Which rule is broken and how, or why the check does not apply; None if it passed.
        seconds: How long it took.
    """

    name: str
    summary: str
    result: Literal["passed", "failed", "skipped"]
    reason: str | None
    seconds: float


_REGISTERED: dict[str, Check] = {}


def check(summary: str, *, needs: tuple[str, ...] = (), long: bool = False) -> Callable[[Run], Run]:
    """Register a function as the check of its name; checks run in the order in which they are registered."""

    def register(run: Run) -> Run:
        name = run.__name__
        _REGISTERED[name] = Check(name, summary, run, needs, long)
        return run

    return register


def registered() -> dict[str, Check]:
    """Give all checks that were registered so far, by name."""
    return dict(_REGISTERED)
