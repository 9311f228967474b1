"""``zoo check``: whether a backbone keeps the contract."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.options import AsJson
from zoo.cli.output import progress, say, say_json, say_table, speaks

if TYPE_CHECKING:
    from zoo.testing import Check, Outcome

__all__ = ["check"]

EXAMPLES = (
    "zoo check timm:resnet18 --skip compiled\n\n"
    "zoo check acme:tinynet --only freezing --only bundle --json\n\n"
    "zoo check --list"
)


@speaks
def check(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A backbone, such as timm:resnet18.", show_default=False)
    ] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="CHECK", help="Run this check. Repeatable.")] = None,
    skip: Annotated[list[str] | None, typer.Option(metavar="CHECK", help="Leave this out. Repeatable.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the checks instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check a backbone, with random weights, against zoo's contract; exit code 1 if a rule is broken."""
    from zoo.testing.backbones.examining import backbone_checks, chosen

    checks = chosen(only or None, skip or ())
    if listing:
        return _list(checks, as_json=as_json)
    if name is None:
        raise typer.BadParameter("give a backbone to check, such as timm:resnet18, or --list", param_hint="NAME")
    running: Iterator[Outcome] = backbone_checks(name, only=[one.name for one in checks])
    outcomes = list(progress(running, name, total=len(checks)))
    failed = sum(one.result == "failed" for one in outcomes)
    if as_json:
        say_json({"backbone": name, "ok": not failed, "checks": outcomes})
    else:
        rows = [(one.name, one.result, f"{one.seconds:.2f}", _line(one)) for one in outcomes]
        say_table(("check", "result", "seconds", "reason"), rows, numbers=("seconds",))
        passed = sum(one.result == "passed" for one in outcomes)
        say()
        say(f"{name}: {passed} passed, {failed} failed, {len(outcomes) - passed - failed} do not apply")
    if failed:
        raise typer.Exit(1)
    return None


def _line(outcome: Outcome) -> str:
    return " ".join((outcome.reason or "").split())


def _list(checks: list[Check], *, as_json: bool) -> None:
    told: list[dict[str, Any]] = [
        {"name": one.name, "summary": one.summary, "needs": one.needs, "long": one.long} for one in checks
    ]
    if as_json:
        return say_json(told)
    return say_table(("check", "what must hold"), [(one["name"], one["summary"]) for one in told])
