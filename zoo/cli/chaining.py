"""``zoo chain``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.options import AsJson, Strict
from zoo.cli.output import note, say, say_json, say_table, speaks

if TYPE_CHECKING:
    from zoo.chaining.running import ChainResult

__all__ = ["chain", "say_chain"]

EXAMPLES = "zoo chain recipe.yaml --out runs/pets\n\nzoo schema chain > chain.schema.json"


@speaks
def chain(
    recipe: Annotated[Path, typer.Argument(metavar="FILE", help="The chain, YAML or JSON; zoo schema chain.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the steps' bundles; one that died goes on.")],
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Run several steps on one model, a bundle after each, and tell what each did to accuracy, size and speed."""
    import zoo

    try:
        result = zoo.chain(recipe, out, strict=strict)
    except KeyboardInterrupt as stop:
        again = shlex.join(["zoo", "chain", str(recipe), "--out", str(out), *(["--strict"] if strict else [])])
        note(" ".join([getattr(stop, "told", ""), f"Go on with: {again}"]).strip())
        raise
    if as_json:
        return say_json(result.as_json())
    say_chain(result)
    last = next((row.path for row in reversed(result.rows) if row.parameters is not None), None)
    return say(f"Next: zoo predict {shlex.quote(str(out / last))} picture.jpg") if last else None


def say_chain(result: ChainResult) -> None:
    """Tell a chain as a table, one row a step."""
    metrics = list(dict.fromkeys(name for row in result.rows for name in row.metrics))
    heads = ("step", "act", *metrics, "parameters", "MB", "ms a row", "seconds")
    say_table(
        heads,
        [
            (
                *(row.path, row.act),
                *(f"{row.metrics[name]:.4g}" if name in row.metrics else None for name in metrics),
                *(None if row.parameters is None else f"{row.parameters:,}", f"{row.megabytes:.3g}"),
                *(None if row.milliseconds is None else f"{row.milliseconds:.3g}", f"{row.seconds:.1f}"),
            )
            for row in result.rows
        ],
        numbers=heads[2:],
    )
