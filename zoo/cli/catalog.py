"""``zoo list``, ``zoo info``, ``zoo resolve`` and ``zoo catalog build``: their options and help.

What the first three do stands in ``finding``; ``express`` reads them without typer where they are plainly written, and
must know every option that stands here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from zoo.cli import finding
from zoo.cli.options import AsJson, Name
from zoo.cli.output import complain, note, progress, say, say_json, speaks

if TYPE_CHECKING:
    from zoo.catalog import Built
    from zoo.contracts.catalog import CatalogEntry

__all__ = ["build", "catalogs", "info", "list_backbones", "resolve"]

LIST_EXAMPLES = (
    "zoo list 'mobilenet*' --pretrained\n\n"
    "zoo list --needs maps --max-params 5M --license 'apache*' --sort parameters\n\n"
    "zoo list --tag in22k --size 224\n\n"
    "zoo list --heads"
)
INFO_EXAMPLES = "zoo info timm:mobilenetv3\n\nzoo info timm:mobilenetv3 --spec --json"
RESOLVE_EXAMPLES = "zoo resolve mobilenet_v3_large"
BUILD_EXAMPLES = "zoo catalog build timm\n\nzoo catalog build torchvision --measure"


def list_backbones(
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="Part of a name, or a pattern with * and ?.", show_default=False)
    ] = "*",
    provider: Annotated[str | None, typer.Option(metavar="P", help="Only this provider's, such as timm.")] = None,
    modality: Annotated[str | None, typer.Option(metavar="M", help="image, text, audio, video, image-text.")] = None,
    needs: Annotated[
        list[str] | None, typer.Option(metavar="CAPABILITY", help="Only those that give it, such as maps. Repeatable.")
    ] = None,
    min_params: Annotated[str | None, typer.Option(metavar="N", help="Parameters at the least, such as 5M.")] = None,
    max_params: Annotated[str | None, typer.Option(metavar="N", help="Parameters at the most, such as 50M.")] = None,
    size: Annotated[str | None, typer.Option(metavar="PIXELS", help="Native size, such as 224 or 256x128.")] = None,
    max_size: Annotated[int | None, typer.Option(min=1, metavar="PIXELS", help="Native size at the most.")] = None,
    tag: Annotated[str | None, typer.Option(metavar="PATTERN", help="Tag of weights, as in22k or '*dinov2*'.")] = None,
    license: Annotated[str | None, typer.Option(metavar="PATTERN", help="Licence of weights, as 'apache*'.")] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Only those with pretrained weights.")] = False,
    sort: Annotated[Literal["name", "parameters"] | None, typer.Option(help="Order over all providers.")] = None,
    heads: Annotated[bool, typer.Option("--heads", help="List the head types instead.")] = False,
    methods: Annotated[bool, typer.Option("--methods", help="List the training methods instead.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Show the first N only.")] = None,
    as_json: AsJson = False,
) -> None:
    """List backbones, head types or training methods."""
    filters: dict[str, Any] = {"provider": provider, "modality": modality, "needs": tuple(needs or ())}
    filters |= {"min_params": min_params, "max_params": max_params, "size": size, "max_size": max_size}
    filters |= {"tag": tag, "license": license, "pretrained": pretrained, "sort": sort}
    finding.give_list(pattern, heads=heads, methods=methods, limit=limit, as_json=as_json, **filters)


def info(
    name: Name,
    spec: Annotated[bool, typer.Option("--spec", help="Ask the provider for the full spec; imports it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say which backbone a name means and what is known of it."""
    finding.give_info(name, spec=spec, as_json=as_json)


def resolve(name: Name, as_json: AsJson = False) -> None:
    """Say which backbone a name means, and why."""
    finding.give_resolution(name, as_json=as_json)


def catalogs(context: typer.Context) -> None:
    """Make the lists of backbones that zoo answers from."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@speaks
def build(
    providers: Annotated[
        list[str] | None, typer.Argument(metavar="PROVIDER", help="Providers, all by default.", show_default=False)
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Ask for the spec of every architecture; takes minutes, can be stopped.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List what the installed libraries offer, into the cache; exit code 1 if a provider could not be listed."""
    from zoo.catalog import build_catalog
    from zoo.catalog import providers as known
    from zoo.errors import UnknownName, ZooError

    built: list[Built] = []
    failed = False
    for provider in providers or known():
        try:
            one = build_catalog(provider, measured=measure, follow=_followed(provider))
        except UnknownName:
            if providers:
                raise
            continue  # it may have had backbones, and has none
        except ZooError as error:
            if len(providers or ()) == 1:
                raise
            complain(error)
            failed = True
            continue
        except KeyboardInterrupt:
            if measure:
                note(f"What was measured of {provider} is kept; the same command goes on from there.")
            raise
        built.append(one)
        if not as_json:
            say(_line(one, measured=measure))
    if as_json:
        say_json([_told(one) for one in built])
    if failed:
        raise typer.Exit(1)


def _followed(provider: str) -> Any:
    def follow(entries: Iterator[CatalogEntry], total: int) -> Iterable[CatalogEntry]:
        return progress(entries, provider, total=total) if sys.stderr.isatty() else entries

    return follow


def _line(one: Built, *, measured: bool) -> str:
    count = len(one.catalog.entries)
    known = sum(entry.parameters is not None for entry in one.catalog.entries)
    told = f"{one.provider}: {count} backbones of {one.catalog.library} {one.catalog.version}, {known} of them measured"
    if one.failed:
        told += f", {len(one.failed)} could not be ({', '.join(one.failed[:8])}{' …' if len(one.failed) > 8 else ''})"
    hint = "" if measured or known == count else "; --measure measures the others"
    return f"{told}{hint}; in {one.path}"


def _told(one: Built) -> dict[str, Any]:
    return {
        "provider": one.provider,
        "library": one.catalog.library,
        "version": one.catalog.version,
        "backbones": len(one.catalog.entries),
        "measured": sum(entry.parameters is not None for entry in one.catalog.entries),
        "failed": {entry.name: entry.requires for entry in one.catalog.entries if entry.name in one.failed},
        "path": one.path,
    }
