"""``zoo list``, ``zoo info`` and ``zoo resolve``: what there is, answered from the catalogs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli import numbers
from zoo.cli.options import AsJson, Name
from zoo.cli.output import note, say, say_json, say_table, speaks
from zoo.errors import ConfigError, UnknownName

if TYPE_CHECKING:
    from zoo.catalog import Listing, Resolution
    from zoo.contracts.catalog import CatalogEntry

__all__ = ["info", "list_backbones", "resolve"]

LIST_EXAMPLES = (
    "zoo list 'mobilenet*' --pretrained\n\n"
    "zoo list --needs maps --max-params 5M --license 'apache*'\n\n"
    "zoo list --heads"
)
INFO_EXAMPLES = "zoo info timm:mobilenetv3\n\nzoo info timm:mobilenetv3 --spec --json"
RESOLVE_EXAMPLES = "zoo resolve mobilenet_v3_large"

WHY = {
    "exact": "the name is in the catalog",
    "folded": "the name is in the catalog but for upper case and - _ .",
    "renamed": "the library has renamed it",
    "alias": "a short name for the variant that people mostly mean",
    "prefix": "the only name that begins so",
    "as given": "a hub id or local path, taken as it is",
}


@speaks
def list_backbones(
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="Part of a name, or a pattern with * and ?.", show_default=False)
    ] = "*",
    provider: Annotated[str | None, typer.Option(metavar="P", help="Only this provider's, such as timm.")] = None,
    modality: Annotated[str | None, typer.Option(metavar="M", help="image, text, audio, video, image-text.")] = None,
    needs: Annotated[
        list[str] | None, typer.Option(metavar="CAPABILITY", help="Only those that give it, such as maps. Repeatable.")
    ] = None,
    max_params: Annotated[str | None, typer.Option(metavar="N", help="Parameters at the most, such as 5M.")] = None,
    license: Annotated[str | None, typer.Option(metavar="PATTERN", help="Licence of weights, as 'apache*'.")] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Only those with pretrained weights.")] = False,
    heads: Annotated[bool, typer.Option("--heads", help="List the head types instead.")] = False,
    methods: Annotated[bool, typer.Option("--methods", help="List the training methods instead.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Show the first N only.")] = None,
    as_json: AsJson = False,
) -> None:
    """List backbones, head types or training methods."""
    filters: dict[str, Any] = {"provider": provider, "modality": modality, "needs": tuple(needs or ())}
    filters |= {"max_params": max_params, "license": license, "pretrained": pretrained}
    if heads or methods:
        if heads and methods:
            raise ConfigError("--heads and --methods are two lists; ask for one.")
        for name, value in filters.items():
            if value:
                raise ConfigError(f"--{name.replace('_', '-')} is for backbones, not for heads and methods.")
        from zoo.cli.plugins import list_given

        return list_given("heads" if heads else "methods", pattern, limit, as_json=as_json)
    found = _search(pattern, filters)
    shown = found[:limit]
    if as_json:
        return say_json([{"reference": one.reference, "provider": one.provider, **_facts(one.entry)} for one in shown])
    if not found:
        return note("No backbone matches.")
    headers = ("name", "params M", "width", "size", "tags", "licence")
    say_table(headers, [_row(one) for one in shown], numbers=headers[1:4])
    if len(shown) < len(found):
        note(f"{len(shown)} of {len(found)} shown")
    return None


def _search(pattern: str, filters: dict[str, Any]) -> list[Listing]:
    """Check what the catalog would answer with silence, then ask it."""
    from typing import get_args

    from zoo.catalog import catalog_of, providers
    from zoo.catalog import list_backbones as search
    from zoo.spec import Modality

    named, colon, rest = pattern.rpartition(":")
    if colon and filters["provider"] not in (None, named):
        raise ConfigError(
            f"The pattern asks for the provider {named!r}, --provider for {filters['provider']!r}; give one."
        )
    provider = filters["provider"] or named or None
    if filters["modality"] is not None:
        _known("--modality", filters["modality"], get_args(Modality))
    if filters["needs"]:
        names = providers() if provider is None else [provider]
        capabilities = {one for name in names for entry in catalog_of(name).entries for one in entry.capabilities}
        for capability in filters["needs"]:
            _known("--needs", capability, sorted(capabilities))
    most = None if filters["max_params"] is None else numbers.count("--max-params", filters["max_params"])
    license = None if filters["license"] is None else filters["license"].casefold()
    wild = rest if any(sign in rest for sign in "*?[") else f"*{rest}*"
    return search(wild, **{**filters, "provider": provider, "max_params": most, "license": license})


def _known(option: str, value: str, known: tuple[str, ...] | list[str]) -> None:
    if value not in known:
        raise UnknownName(f"{option} must be one of {', '.join(known)}, got {value!r}.")


def _facts(entry: CatalogEntry) -> dict[str, Any]:
    return {field: getattr(entry, field) for field in type(entry).__slots__}


def _row(one: Listing) -> tuple[object, ...]:
    entry = one.entry
    tags = None
    if entry.tags:
        tags = entry.tags[0] + (f" +{len(entry.tags) - 1}" if len(entry.tags) > 1 else "")
    license = entry.licenses.get(entry.tags[0]) if entry.tags else None
    return one.reference, numbers.millions(entry.parameters), entry.pooled_dim, numbers.size(entry.size), tags, license


@speaks
def info(
    name: Name,
    spec: Annotated[bool, typer.Option("--spec", help="Ask the provider for the full spec; imports it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say which backbone a name means and what is known of it."""
    import zoo

    found, entry = zoo.info(name)
    full = _spec(found) if spec else None
    if as_json:
        known = None if entry is None else _facts(entry)
        return say_json({**_told(found), "entry": known, **({"spec": full} if spec else {})})
    rows: list[tuple[str, object]] = [("name", found.asked), ("means", found.reference), ("why", WHY[found.how])]
    if entry is not None:
        rows += _known_rows(entry)
    elif not spec:
        rows.append(("catalog", "does not have it; --spec asks the provider"))
    say_table(("", ""), [row for row in rows if row[1] not in (None, "")])
    if full is not None:
        _say_spec(full)
    return None


def _known_rows(entry: CatalogEntry) -> list[tuple[str, object]]:
    tags = [f"{tag} ({entry.licenses[tag]})" if tag in entry.licenses else tag for tag in entry.tags]
    parameters = numbers.millions(entry.parameters)
    return [
        ("modality", entry.modality),
        ("parameters", None if parameters is None else f"{parameters} M"),
        ("width", entry.pooled_dim),
        ("size", numbers.size(entry.size)),
        ("gives", ", ".join(entry.capabilities)),
        ("tags", ", ".join(tags) or "none: no pretrained weights"),
        ("requires", entry.requires),
    ]


def _spec(found: Resolution) -> dict[str, Any]:
    from zoo.registry import registry
    from zoo.spec import to_json

    full: dict[str, Any] = to_json(registry().provider(found.reference.provider).spec(found.reference))
    return full


def _say_spec(full: dict[str, Any]) -> None:
    """Write the spec for a reader; how the provider builds it again stands in the JSON only."""
    say()
    apart = ("inputs", "stages", "preprocessing", "construction")
    values = [(key, _flat(value)) for key, value in full.items() if key not in apart]
    say_table(("", ""), [(key, value) for key, value in values if value not in (None, "")])
    if full["preprocessing"]:
        say()
        say_table(("preprocessing", ""), [(key, _flat(value)) for key, value in full["preprocessing"].items()])
    for key in ("inputs", "stages"):
        rows = full[key]
        say()
        say_table((key, *list(rows[0])[1:]), [tuple(map(_flat, row.values())) for row in rows])


def _flat(value: object) -> object:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


@speaks
def resolve(name: Name, as_json: AsJson = False) -> None:
    """Say which backbone a name means, and why."""
    import zoo

    found = zoo.resolve(name)
    if as_json:
        return say_json(_told(found))
    say(found)
    return say(f"  {WHY[found.how]}")


def _told(found: Resolution) -> dict[str, Any]:
    return {"asked": found.asked, "reference": str(found.reference), "how": found.how, "why": WHY[found.how]}
