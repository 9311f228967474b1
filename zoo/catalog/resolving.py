"""Which backbone a name means, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from zoo.catalog.index import catalog_of, catalogs
from zoo.contracts.catalog import Catalog, CatalogEntry
from zoo.errors import UnknownName, nearest
from zoo.reference import Reference

__all__ = ["Resolution", "info", "resolve"]

_SEPARATORS = {ord(character): None for character in "-_. "}


@dataclass(frozen=True, slots=True)
class Resolution:
    """Which backbone a name means, and why.

    Args:
        asked: What was typed.
        reference: The full reference: architecture, tag, revision, options.
        how: The rule that found it: ``exact``, ``folded`` (case and separators), ``renamed``, ``alias``, ``prefix``,
            or ``as given`` (a hub id or local path).
        entry: Its entry in the catalog; None for hub ids and local paths.
    """

    asked: str
    reference: Reference
    how: str
    entry: CatalogEntry | None = None

    def __str__(self) -> str:
        return f"{self.asked} → {self.reference} ({self.how})"


def info(name: str) -> tuple[Resolution, CatalogEntry | None]:
    """Say which backbone a name means and what the catalog knows of it.

    Args:
        name: A reference, or the name of an architecture.

    Raises:
        UnknownName: As :func:`resolve`.
    """
    found = resolve(name)
    return found, found.entry


def resolve(name: str | Reference) -> Resolution:
    """Find the backbone that a name means.

    In this order: the exact name; the name after folding case, ``-``, ``_``, ``.`` and blanks; the library's own
    renames; the provider's table of loose names; a unique prefix. A missing tag becomes the default one; a tag may be
    folded or cut, too. A name without a provider is accepted only if exactly one provider has it.

    Args:
        name: A reference, or the name of an architecture.

    Raises:
        InvalidReference: If the text does not follow the grammar.
        UnknownName: If nothing has that name, and the message lists the eight nearest; or if the library has it and
            zoo does not serve it, and the message says why.
        PluginError: If the provider's catalog cannot be had.

    Example:
        >>> str(resolve("timm:mobilenetv3").reference)
        'timm:mobilenetv3_large_100.ra_in1k'
    """
    if isinstance(name, str) and ":" not in name:
        return _resolve_bare(name)
    reference = Reference.parse(name) if isinstance(name, str) else name
    return _resolve_in(str(name), reference, catalog_of(reference.provider))


def _resolve_in(asked: str, reference: Reference, catalog: Catalog) -> Resolution:
    if _is_open(reference.name, catalog):
        return Resolution(asked, reference, "as given")
    found = _search(reference, catalog)
    if found is None:
        near = nearest(reference.name, [*(entry.name for entry in catalog.entries), *catalog.aliases])
        hint = f" The nearest are {', '.join(near)}." if near else ""
        hint += " A hub id is written 'owner/name', a local folder './name'." if catalog.open_names else ""
        raise UnknownName(
            f"{reference.provider} ({catalog.library} {catalog.version}) has no backbone {reference.name!r}.{hint}"
        )
    full, how, entry = found
    return Resolution(asked, replace(reference, name=full), how, _part(entry, reference, catalog))


def _part(entry: CatalogEntry, reference: Reference, catalog: Catalog) -> CatalogEntry:
    """Give the entry of one tower of a dual model, where the catalog lists it by itself."""
    name = f"{entry.name}#{reference.part}"
    return next((one for one in catalog.entries if one.name == name), entry) if reference.part else entry


def _is_open(name: str, catalog: Catalog) -> bool:
    """Say whether a name is a hub id or local path, which no catalog lists."""
    return catalog.open_names and ("/" in name or name.startswith((".", "~")))


def _resolve_bare(name: str) -> Resolution:
    """Ask every provider; those with the name itself and weights for it go before those that only mean it."""
    found: list[Resolution] = []
    refusals: list[UnknownName] = []
    known: dict[str, str] = {}
    for provider, catalog in catalogs():
        reference = Reference.parse(f"{provider}:{name}")
        known |= {f"{provider}:{entry.name}": entry.name for entry in catalog.entries}
        if _is_open(reference.name, catalog):
            found.append(Resolution(name, reference, "as given"))
            continue
        try:
            match = _search(reference, catalog)
        except UnknownName as error:
            refusals.append(error)
            continue
        if match is not None:
            full, how, entry = match
            part = _part(entry, reference, catalog)
            found.append(Resolution(name, replace(reference, name=full), how, part))
    chosen = [one for one in found if one.how in ("exact", "folded") and one.entry and one.entry.tags] or found
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        several = ", ".join(str(resolution.reference) for resolution in chosen)
        raise UnknownName(f"{name!r} is several backbones: {several}; say which.")
    if refusals:
        raise refusals[0]
    near = nearest(name, set(known.values()))
    full_names = [full for one in near for full, short in known.items() if short == one][:8]
    hint = f" The nearest are {', '.join(full_names)}." if near else ""
    raise UnknownName(f"No backbone is called {name!r}.{hint}")


def _search(reference: Reference, catalog: Catalog) -> tuple[str, str, CatalogEntry] | None:
    """Find name, rule and entry by the first rule that fits; None if none does.

    Raises:
        UnknownName: If the library has it and zoo does not serve it, or the architecture is found and its tag is not.
    """
    wrong: tuple[CatalogEntry, str] | None = None
    for how, entry, tag in _candidates(reference, catalog):
        match = _tag(entry, tag)
        if match is not None:
            cut = how in ("exact", "folded") and fold(match) != fold(tag or match)
            return (f"{entry.name}.{match}" if match else entry.name), "prefix" if cut else how, entry
        wrong = wrong or (entry, tag)
    if wrong is not None:
        entry, tag = wrong
        begins = [known for known in entry.tags if fold(known).startswith(fold(tag))]
        tags = ", ".join((begins or nearest(tag, entry.tags) or list(entry.tags))[:8]) or "none"
        raise UnknownName(f"{reference.provider}:{entry.name} has no weights tagged {tag!r}; its tags are {tags}.")
    return None


def _candidates(reference: Reference, catalog: Catalog) -> Iterator[tuple[str, CatalogEntry, str]]:
    """Give rule, entry and tag, best first; a dot may stand before a tag or be a separator like any other."""
    name = reference.name
    dots = [place for place, character in enumerate(name) if character == "."]
    splits = [(name, ""), *((name[:dot], name[dot + 1 :]) for dot in dots)]
    entries = {entry.name: entry for entry in catalog.entries}
    for architecture, tag in splits:
        if architecture in entries:
            yield "exact", entries[architecture], tag
    by_fold: dict[str, list[CatalogEntry]] = {}
    for entry in catalog.entries:
        by_fold.setdefault(fold(entry.name), []).append(entry)
    folds = [(fold(architecture), tag) for architecture, tag in splits if fold(architecture)]
    for folded, tag in folds:
        if len(same := by_fold.get(folded, [])) == 1:
            yield "folded", same[0], tag
    _refuse(reference, catalog, {folded for folded, _ in folds})
    for how, table in (("renamed", catalog.renames), ("alias", catalog.aliases)):
        names = {fold(old): new for old, new in table.items()} | dict(table)
        for old, tag in [*splits, *folds]:
            target = names.get(old, "")
            new, new_tag = _split(target, entries)
            if new in entries and not (tag and new_tag):
                yield how, entries[new], tag or new_tag
    for folded, tag in folds:
        begins = [same for known, same in by_fold.items() if known.startswith(folded)]
        if len(begins) == 1 and len(begins[0]) == 1:
            yield "prefix", begins[0][0], tag


def _split(full: str, entries: Mapping[str, CatalogEntry]) -> tuple[str, str]:
    """Take a name of the catalog apart into architecture and tag; an architecture's own name may have a dot."""
    architecture, _, tag = full.partition(".")
    return (full, "") if full in entries else (architecture, tag)


def _refuse(reference: Reference, catalog: Catalog, folds: set[str]) -> None:
    """Say why the library's own name is not served.

    Raises:
        UnknownName: If it is one that is refused.
    """
    for name, reason in catalog.refused.items():
        if fold(name) in folds:
            raise UnknownName(f"{reference.provider}:{name} is not served: {reason}.")


def _tag(entry: CatalogEntry, tag: str) -> str | None:
    """Find a tag: the default one for none, else the same, the same after folding, or the only one that begins so."""
    if not tag:
        return entry.tags[0] if entry.tags else ""
    if tag in entry.tags:
        return tag
    typed = fold(tag)
    same = [known for known in entry.tags if fold(known) == typed]
    begins = [known for known in entry.tags if typed and fold(known).startswith(typed)]
    chosen = same or begins
    return chosen[0] if len(chosen) == 1 else None


def fold(text: str) -> str:
    """Leave out what people write one way or another: case, ``-``, ``_``, ``.`` and blanks."""
    return text.casefold().translate(_SEPARATORS)
