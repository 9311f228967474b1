"""``zoo demo``: the whole way on real pictures, in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.options import AsJson
from zoo.cli.output import say_json, speaks

__all__ = ["demo"]

EXAMPLES = "zoo demo\n\nzoo demo --out demo --epochs 5 --seed 1"


@speaks
def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the results go.")] = Path("demo"),
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the data; the demo's own number if left out.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of splits and training.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train, evaluate, save and load on real pictures that come with a package, and write a report."""
    from zoo.report.demo import run_demo

    found = run_demo(out, seed=seed, **({} if epochs is None else {"epochs": epochs}))
    if as_json:
        say_json(found)
