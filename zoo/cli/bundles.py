"""``zoo verify``: whether a bundle is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.options import AsJson, BundleAt
from zoo.cli.output import say, say_json, speaks

__all__ = ["verify"]

EXAMPLES = "zoo verify my-model\n\nzoo verify my-model --run --json\n\nzoo verify s3://bucket/my-model"


@speaks
def verify(
    bundle: BundleAt,
    run: Annotated[bool, typer.Option("--run", help="Also build the model and compare with its saved output.")] = False,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM file of the public key that it must be signed with.")
    ] = None,
    identity: Annotated[str | None, typer.Option(metavar="EMAIL", help="Who must have signed it keyless.")] = None,
    issuer: Annotated[str | None, typer.Option(metavar="URL", help="Who vouches for the identity.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check a bundle's files against its manifest; exit code 1 if it is not well."""
    import zoo
    from zoo.remote import shown

    report = zoo.verify(bundle, run=run, key=key, identity=identity, issuer=issuer)
    if as_json:
        say_json(report.as_json())
    else:
        for problem in report.problems:
            say(f"problem: {problem}")
        for library, (then, now) in report.skew.items():
            say(f"note: saved with {library} {then}, this is {now}")
        how = ("ok, signed" if report.signed else "ok") if report.ok else "not well"
        say(f"{shown(bundle)}: {how}{f', id {report.id}' if report.id else ''}")
    if not report.ok:
        raise typer.Exit(1)
