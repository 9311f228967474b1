"""What ``zoo list``, ``zoo info`` and ``zoo resolve`` do, once their arguments are read; answered from the catalogs."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cli import numbers
from zoo.cli.output import note, say, say_json, say_table, speaks
from zoo.errors import ConfigError

if TYPE_CHECKING:
    from zoo.catalog import Listing, Resolution
    from zoo.contracts.catalog import CatalogEntry

__all__ = ["give_info", "give_list", "give_resolution"]

WHY = {
    "exact": "the name is in the catalog",
    "folded": "the name is in the catalog but for upper case and - _ .",
    "renamed": "the library has renamed it",
    "alias": "a short name for the variant that people mostly mean",
    "prefix": "the only name that begins so",
    "as given": "a hub id or local path, taken as it is",
}


# --- zoo list


@speaks
def give_list(
    pattern: str = "*",
    *,
    heads: bool = False,
    methods: bool = False,
    limit: int | None = None,
    as_json: bool = False,
    **filters: Any,
) -> None:
    """List backbones, or head types or training methods.

    Raises:
        ConfigError: If two things are asked for that do not go together, or a number cannot be read.
        UnknownName: If a provider, modality or capability is not known.
    """
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
        rows = [{"reference": one.reference, "provider": one.provider, **_facts(one.entry)} for one in shown]
        return say_json(rows, lines=True)
    if not found:
        return note("No backbone matches.")
    headers = ("name", "params M", "width", "size", "tags", "licence")
    say_table(headers, [_row(one) for one in shown], numbers=headers[1:4])
    if len(shown) < len(found):
        note(f"{len(shown)} of {len(found)} shown")
    return None


def _search(pattern: str, filters: dict[str, Any]) -> list[Listing]:
    """Read what was typed, then ask the catalogs."""
    from zoo.catalog import list_backbones as search

    named, colon, rest = pattern.rpartition(":")
    if colon and filters.get("provider") not in (None, named):
        raise ConfigError(
            f"The pattern asks for the provider {named!r}, --provider for {filters['provider']!r}; give one."
        )
    asked = {name: value for name, value in filters.items() if value not in (None, (), False)}
    if colon:
        asked["provider"] = named
    for name in ("min_params", "max_params"):
        if name in asked:
            asked[name] = numbers.count(f"--{name.replace('_', '-')}", asked[name])
    if "size" in asked:
        asked["size"] = numbers.pixels("--size", asked["size"])
    if "tag" in asked:
        asked["tag"] = _wild(asked["tag"])
    return search(_wild(rest), **asked)


def _wild(text: str) -> str:
    """Take a text without signs of a pattern for a part of a name."""
    return text if any(sign in text for sign in "*?[") else f"*{text}*"


def _facts(entry: CatalogEntry) -> dict[str, Any]:
    return {field: getattr(entry, field) for field in type(entry).__slots__}


def _row(one: Listing) -> tuple[object, ...]:
    entry, tags, license = one.entry, None, None
    if entry.tags:
        first = one.tag or entry.tags[0]
        tags = first + (f" +{len(entry.tags) - 1}" if len(entry.tags) > 1 else "")
        license = entry.licenses.get(first)
    return one.reference, numbers.millions(entry.parameters), entry.pooled_dim, numbers.size(entry.size), tags, license


# --- zoo info, zoo resolve


@speaks
def give_info(name: str, *, spec: bool = False, as_json: bool = False) -> None:
    """Say which backbone a name means and what is known of it; of a bundle, draw what it is made of.

    Raises:
        UnknownName: If nothing has that name, or it is not served.
        BundleError: If the bundle is not well.
    """
    import zoo
    from zoo.remote import is_url

    bundle = name.removeprefix("bundle:")
    if is_url(bundle) or (Path(bundle) / "zoo.json").is_file():
        return _give_composition(bundle, as_json=as_json)
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


def _give_composition(bundle: str, *, as_json: bool) -> None:
    import zoo
    from zoo.remote import shown
    from zoo.report.composition import compose, draw

    whole = replace(compose(zoo.load(bundle)), name=shown(bundle))
    if as_json:
        return say_json(asdict(whole))
    for line in draw(whole):
        say(line)
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
    from zoo.strict import to_json

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
def give_resolution(name: str, *, as_json: bool = False) -> None:
    """Say which backbone a name means, and why.

    Raises:
        UnknownName: If nothing has that name, or it is not served.
    """
    import zoo

    found = zoo.resolve(name)
    if as_json:
        return say_json(_told(found))
    say(found)
    return say(f"  {WHY[found.how]}")


def _told(found: Resolution) -> dict[str, Any]:
    return {"asked": found.asked, "reference": str(found.reference), "how": found.how, "why": WHY[found.how]}
