"""``zoo store``: the backbones that delta bundles are based on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from zoo.cli.options import AsJson
from zoo.cli.output import say, say_json, say_table, speaks

__all__ = ["add", "collect", "list_stored", "store", "verify"]

LIST_EXAMPLES = "zoo store list --json"
ADD_EXAMPLES = "zoo store add timm:resnet18.a1_in1k\n\nzoo store add my-model"
VERIFY_EXAMPLES = "zoo store verify"
GC_EXAMPLES = "zoo store gc --dry-run\n\nzoo store gc --missing"
EXAMPLES = f"{LIST_EXAMPLES}\n\n{ADD_EXAMPLES}\n\n{VERIFY_EXAMPLES}\n\n{GC_EXAMPLES}"


def store(context: typer.Context) -> None:
    """The backbones that bundles of kind delta are based on: list, add, verify, remove."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@speaks
def list_stored(as_json: AsJson = False) -> None:
    """List the backbones in the store, and the bundles that were saved on top of each."""
    from zoo.bundle.store import Store

    found = Store().entries()
    if as_json:
        say_json([stored.as_json() for stored in found])
        return
    rows = [
        (
            stored.label,
            stored.state_digest[12:24],
            f"{stored.size / 1e6:.1f} MB",
            str(len(stored.bundles)),
            datetime.fromtimestamp(stored.added, UTC).strftime("%Y-%m-%d"),
        )
        for stored in found
    ]
    if rows:
        say_table(["backbone", "digest", "size", "bundles", "added"], rows)
    say(f"{len(rows)} backbones, {sum(stored.size for stored in found) / 1e6:.1f} MB in {Store().root}")


@speaks
def add(
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="Bundle, or the reference of a library's weights.", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Put a backbone in the store, so that bundles that are based on it load."""
    from zoo.bundle.basing import add as put
    from zoo.bundle.store import Store

    digests = put(what, Store())
    if as_json:
        say_json(digests)
        return
    for digest in digests:
        say(digest)


@speaks
def verify(as_json: AsJson = False) -> None:
    """Read every file of the store whole; exit code 1 if one is damaged."""
    from zoo.bundle.store import Store

    kept = Store()
    problems = kept.verify()
    if as_json:
        say_json({"root": str(kept.root), "ok": not problems, "problems": list(problems)})
    else:
        for problem in problems:
            say(f"problem: {problem}")
        say(f"{kept.root}: {'not well' if problems else 'ok'}")
    if problems:
        raise typer.Exit(1)


@speaks
def collect(
    missing: Annotated[
        bool, typer.Option("--missing", help="Bundles that are not where they were saved need nothing.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell only what would be removed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove the backbones that no bundle needs; what was added in the last hour stays."""
    from zoo.bundle.store import Store

    found = Store().collect(missing=missing, dry_run=dry_run)
    if as_json:
        say_json(found.as_json())
        return
    verb = "would be removed" if dry_run else "removed"
    say(f"{len(found.states)} backbones in {found.blobs} files {verb}, {found.bytes / 1e6:.1f} MB")
