"""``zoo sign``: put a signature into a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.options import Bundle
from zoo.cli.output import say, speaks

__all__ = ["sign"]

EXAMPLES = "zoo sign my-model --key private.pem\n\nzoo verify my-model --key public.pem"


@speaks
def sign(
    bundle: Bundle,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="PEM file of an elliptic-curve private key.")] = None,
    keyless: Annotated[
        bool, typer.Option("--keyless", help="Sign by an identity that sigstore vouches for, and publishes.")
    ] = False,
) -> None:
    """Sign a bundle: all of its files, in the OpenSSF model-signing format."""
    import zoo

    say(f"signed: {zoo.sign(bundle, key=key, keyless=keyless)}")
