"""Running the checks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

import torch

from zoo.contracts.backbone import Backbone
from zoo.errors import UnknownName, nearest
from zoo.reference import Reference
from zoo.testing.backbones import description, giving, keeping, preparing, running, stages, taking, training
from zoo.testing.backbones.check import Check, Outcome, Unfit, registered
from zoo.testing.backbones.subject import Subject

__all__ = ["CHECKS", "backbone_checks", "check_backbone", "chosen", "run_check"]

_ROOMS = [room.__name__ for room in (description, giving, taking, preparing, stages, training, keeping, running)]

CHECKS: Mapping[str, Check] = MappingProxyType(
    dict(sorted(registered().items(), key=lambda item: _ROOMS.index(item[1].run.__module__)))
)
"""All checks by name, in the order in which they run."""


def check_backbone(
    backbone: str | Reference | Backbone, *, only: str | Iterable[str] | None = None, skip: str | Iterable[str] = ()
) -> None:
    """Check a backbone with random weights against the whole contract.

    Args:
        backbone: A reference, as a user would type it, or a whole backbone, such as :func:`zoo.wrap` gives; a small one
            is quicker.
        only: Names of the checks to run; all by default.
        skip: Names of checks to leave out, such as ``compiled``, which takes longest.

    Raises:
        AssertionError: If a rule is broken; the message names the check and says what is wrong.
        UnknownName: If there is no such check, or no such backbone.
    """
    subject = Subject(backbone)
    for one in chosen(only, skip):
        outcome = run_check(one, subject)
        if outcome.result == "failed":
            raise AssertionError(f"{subject.name} fails {one.name}: {outcome.reason}")


def backbone_checks(
    backbone: str | Reference | Backbone, *, only: str | Iterable[str] | None = None, skip: str | Iterable[str] = ()
) -> Iterator[Outcome]:
    """Run the checks one after the other, those after a failure too; the arguments are those of check_backbone.

    Yields:
        What came of each, as soon as it is known.
    """
    listed, subject = chosen(only, skip), Subject(backbone)
    for one in listed:
        yield run_check(one, subject)


def run_check(one: Check, subject: Subject) -> Outcome:
    """Run one check; nothing that a backbone raises comes through.

    Args:
        one: The check.
        subject: What to examine; it may be the same for many checks.
    """
    begin = time.perf_counter()
    result, reason = "passed", None
    try:
        lacking = [name for name in one.needs if name not in subject.spec.capabilities]
        if lacking:
            raise Unfit(f"it does not declare {', '.join(lacking)}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            one.run(subject)
    except Unfit as unfit:
        result, reason = "skipped", str(unfit)
    except AssertionError as broken:
        result, reason = "failed", str(broken) or "a rule is broken"
    except Exception as error:  # what a stranger's provider raises has no common type
        result, reason = "failed", f"{one.summary} It raised {type(error).__name__}: {error}"
    return Outcome(one.name, one.summary, result, reason, time.perf_counter() - begin)  # type: ignore[arg-type]


def chosen(only: str | Iterable[str] | None, skip: str | Iterable[str]) -> list[Check]:
    """Give the checks that are asked for, in their order.

    Raises:
        UnknownName: If there is no such check.
    """
    wanted = [only] if isinstance(only, str) else list(CHECKS if only is None else only)
    without = [skip] if isinstance(skip, str) else list(skip)
    for name in (*wanted, *without):
        if name not in CHECKS:
            near = ", ".join(nearest(name, CHECKS)) or ", ".join(CHECKS)
            raise UnknownName(f"There is no check {name!r}; the nearest are {near}.")
    return [one for name, one in CHECKS.items() if name in wanted and name not in without]
