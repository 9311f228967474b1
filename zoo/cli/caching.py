"""``zoo cache``: what the user's cache folder holds, and how it is cleared."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from zoo.cli.options import AsJson
from zoo.cli.output import note, say, say_json, say_table, speaks

__all__ = ["cache", "clear", "list_cached"]

LIST_EXAMPLES = "zoo cache list\n\nzoo cache list features --json"
CLEAR_EXAMPLES = "zoo cache clear --dry-run\n\nzoo cache clear features remote --older-than 30"
EXAMPLES = f"{LIST_EXAMPLES}\n\n{CLEAR_EXAMPLES}"

Kinds = Annotated[
    list[str] | None,
    typer.Argument(metavar="KIND", help="features, remote, weights, specs, catalog, verified.", show_default=False),
]


def cache(context: typer.Context) -> None:
    """What zoo keeps to be faster, and can make or fetch again: list, clear."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@speaks
def list_cached(kinds: Kinds = None, as_json: AsJson = False) -> None:
    """List what the cache folder holds, by kind: how many, how large, when last used."""
    from zoo.cache import cache_folder
    from zoo.clearing import KINDS, list_cache

    found = list_cache(kinds or ())
    if as_json:
        return say_json({"folder": str(cache_folder()), "entries": [entry.as_json() for entry in found]})
    rows = []
    for kind in (kind for kind in KINDS if not kinds or kind in kinds):
        own = [entry for entry in found if entry.kind == kind]
        last = max((entry.used for entry in own), default=None)
        when = None if last is None else datetime.fromtimestamp(last, UTC).strftime("%Y-%m-%d")
        size = f"{sum(entry.bytes for entry in own) / 1e6:.1f} MB"
        rows.append((kind, str(len(own)), size, str(sum(entry.busy for entry in own)), when, KINDS[kind]))
    say_table(("kind", "entries", "size", "in use", "last used", "what"), rows, numbers=("entries", "size", "in use"))
    return say(f"{sum(entry.bytes for entry in found) / 1e6:.1f} MB in {cache_folder()}")


@speaks
def clear(
    kinds: Kinds = None,
    older_than: Annotated[
        float, typer.Option(min=0, metavar="DAYS", help="Only what was not used for so many days.")
    ] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell only what would be removed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what the cache folder holds; what is in use stays."""
    from zoo.clearing import clear_cache

    found = clear_cache(kinds or (), older_than=older_than, dry_run=dry_run)
    if as_json:
        return say_json(found.as_json())
    if found.kept:
        note(f"in use or not to be removed, and kept: {len(found.kept)}")
    size = sum(entry.bytes for entry in found.removed) / 1e6
    return say(f"{len(found.removed)} entries {'would be removed' if dry_run else 'removed'}, {size:.1f} MB")
