"""``zoo verify``: whether a bundle is whole."""

from __future__ import annotations

from typing import Annotated

import typer

from zoo.cli.options import AsJson, Bundle
from zoo.cli.output import say, say_json, speaks

__all__ = ["verify"]

EXAMPLES = "zoo verify my-model\n\nzoo verify my-model --run --json"


@speaks
def verify(
    bundle: Bundle,
    run: Annotated[bool, typer.Option("--run", help="Also build the model and compare with its saved output.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check a bundle's files against its manifest; exit code 1 if it is not well."""
    import zoo

    report = zoo.verify(bundle, run=run)
    if as_json:
        say_json(report.as_json())
    else:
        for problem in report.problems:
            say(f"problem: {problem}")
        say(f"{bundle}: {'ok' if report.ok else 'not well'}{f', id {report.id}' if report.id else ''}")
    if not report.ok:
        raise typer.Exit(1)
