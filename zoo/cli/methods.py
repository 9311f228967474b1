"""``zoo methods``."""

from __future__ import annotations

from typing import Annotated

import typer

from zoo.cli.options import AsJson
from zoo.cli.output import note, say_json, say_table, speaks
from zoo.cli.plugins import given_rows

__all__ = ["methods"]

EXAMPLES = "zoo methods\n\nzoo methods few_shot --json"


@speaks
def methods(
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="Part of a name, or a pattern with * and ?.", show_default=False)
    ] = "*",
    as_json: AsJson = False,
) -> None:
    """List the training methods: what each does, and when to use which."""
    rows = given_rows("methods", pattern)
    if as_json:
        return say_json(rows)
    if not rows:
        return note("No method matches.")
    return say_table(("method", "summary", "when"), [(row["name"], row["summary"], row["when"]) for row in rows])
