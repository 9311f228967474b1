"""The catalog: which backbones there are, and which one a name means, without importing a provider.

Each provider ships ``catalog.json`` beside its ``__init__.py`` for the library version that it was tested with. For
another version the catalog is made anew, once, into the user's cache.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from zoo.cache import cache_folder
from zoo.contracts.catalog import Catalog, CatalogEntry
from zoo.errors import InvalidReference, PluginError, UnknownName, ZooError, nearest
from zoo.reference import Reference
from zoo.registry import Plugin, registry

__all__ = ["Listing", "Resolution", "catalog_of", "info", "list_backbones", "providers", "resolve", "write"]

log = logging.getLogger("zoo")


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


@dataclass(frozen=True, slots=True)
class Listing:
    """One line of ``zoo list``: a backbone and its provider."""

    provider: str
    entry: CatalogEntry

    @property
    def reference(self) -> str:
        """The shortest reference that builds it."""
        return f"{self.provider}:{self.entry.name}"


# --- catalogs


def providers() -> list[str]:
    """List the plugins that ship a catalog, which is what makes a provider; imports none of them."""
    return [plugin.name for plugin in registry().usable() if _shipped(plugin) is not None]


@lru_cache(maxsize=64)
def catalog_of(provider: str) -> Catalog:
    """Read a provider's catalog: the shipped one if it fits the installed library, else one made anew and cached.

    Raises:
        UnknownName: If no such provider is installed.
        PluginError: If its catalog cannot be read or made.
    """
    plugin = registry().plugin(provider)
    path = _shipped(plugin)
    if path is None:
        made = registry().provider(provider)  # says what is wrong if it is no provider at all
        return made.catalog()
    shipped = read(path)
    installed = _installed_version(shipped.library)
    if installed is None or installed == shipped.version:
        return shipped
    cached = cache_folder("catalog") / f"{provider}-{shipped.library}-{installed}.json"
    if cached.is_file():
        try:
            return read(cached)
        except PluginError:
            cached.unlink(missing_ok=True)
    log.info("Listing the backbones of %s %s, once.", shipped.library, installed)
    fresh = _with_details(registry().provider(provider).catalog(), shipped)
    try:
        write(fresh, cached)
    except OSError as error:
        log.info("The catalog is not kept, since the cache cannot be written: %s.", error)
    return fresh


def _with_details(fresh: Catalog, shipped: Catalog) -> Catalog:
    """Keep what was measured for architectures that both versions have."""
    known = {entry.name: entry for entry in shipped.entries}
    entries = tuple(
        replace(entry, parameters=old.parameters, pooled_dim=old.pooled_dim, capabilities=old.capabilities)
        if entry.parameters is None and (old := known.get(entry.name)) is not None
        else entry
        for entry in fresh.entries
    )
    return replace(fresh, entries=entries)


def _shipped(plugin: Plugin) -> Path | None:
    try:
        spec = importlib.util.find_spec(plugin.module.partition(".")[0])
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).with_name("catalog.json")
    return path if path.is_file() else None


def _installed_version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def read(path: Path) -> Catalog:
    """Read a catalog file.

    Raises:
        PluginError: If it is not a catalog.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        entries = tuple(
            CatalogEntry(
                **{
                    **entry,
                    "tags": tuple(entry.get("tags", ())),
                    "size": tuple(entry["size"]) if entry.get("size") else None,
                    "capabilities": tuple(entry.get("capabilities", ("pooled",))),
                }
            )
            for entry in data.pop("entries")
        )
        return Catalog(**data, entries=entries)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise PluginError(f"The catalog {path.name!r} cannot be read: {error}.") from error


def write(catalog: Catalog, path: Path) -> None:
    """Write a catalog file, one architecture a line, whole or not at all."""
    blank = CatalogEntry(name="")
    lines = []
    for entry in catalog.entries:
        fields = {key: getattr(entry, key) for key in CatalogEntry.__slots__}
        lines.append(json.dumps({k: v for k, v in fields.items() if v != getattr(blank, k)}, sort_keys=True))
    head: dict[str, Any] = {key: getattr(catalog, key) for key in Catalog.__slots__ if key != "entries"}
    text = json.dumps(head, sort_keys=True, indent=1)[:-2] + ',\n "entries": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


# --- looking things up


def list_backbones(
    pattern: str = "*",
    *,
    provider: str | None = None,
    modality: str | None = None,
    needs: str | Sequence[str] = (),
    max_params: float | None = None,
    license: str | None = None,
    pretrained: bool = False,
) -> list[Listing]:
    """List backbones from the catalogs; imports neither torch nor a provider.

    Args:
        pattern: Shell pattern for the name, with or without a provider, such as ``mobilenet*`` or ``timm:vit*``.
        provider: Only this provider's.
        modality: Only this modality: ``image``, ``text``, ``audio``, ``video``, ``image-text``.
        needs: Capabilities that it must have, such as ``maps``.
        max_params: Parameters at the most; architectures whose number is not known are left out.
        license: Shell pattern for the licence of some of its weights, such as ``apache*``.
        pretrained: Only those with pretrained weights.

    Raises:
        UnknownName: If the provider is not installed.
    """
    if ":" in pattern:
        provider, _, pattern = pattern.partition(":")
    wanted = {needs} if isinstance(needs, str) else set(needs)
    names = providers() if provider is None else [provider]

    def fits(entry: CatalogEntry) -> bool:
        return (
            _alike(entry.name, pattern or "*")
            and (modality is None or entry.modality == modality)
            and wanted <= set(entry.capabilities)
            and (max_params is None or (entry.parameters is not None and entry.parameters <= max_params))
            and (license is None or any(_alike(text, license) for text in entry.licenses.values()))
            and (not pretrained or bool(entry.tags))
        )

    return [Listing(name, entry) for name in names for entry in catalog_of(name).entries if fits(entry)]


def _alike(text: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(text.casefold(), pattern.casefold())


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
    renames; the provider's table of loose names; a unique prefix. A missing tag becomes the default one. A name
    without a provider is accepted only if exactly one provider has it.

    Args:
        name: A reference, or the name of an architecture.

    Raises:
        InvalidReference: If the text does not follow the grammar.
        UnknownName: If nothing has that name; the message lists the eight nearest.

    Example:
        >>> str(resolve("timm:mobilenetv3").reference)
        'timm:mobilenetv3_large_100.ra_in1k'
    """
    if isinstance(name, str) and ":" not in name:
        return _resolve_bare(name)
    reference = Reference.parse(name) if isinstance(name, str) else name
    catalog = catalog_of(reference.provider)
    if catalog.open_names and ("/" in reference.name or reference.name.startswith((".", "~"))):
        return Resolution(str(name), reference, "as given")
    full, how, entry = _search(reference, catalog)
    return Resolution(str(name), replace(reference, name=full), how, entry)


def _resolve_bare(name: str) -> Resolution:
    found: list[Resolution] = []
    for provider in providers():
        try:
            found.append(resolve(f"{provider}:{name}"))
        except InvalidReference:
            raise
        except ZooError:
            continue
    exact = [resolution for resolution in found if resolution.how in ("exact", "folded")] or found
    if len(exact) == 1:
        return replace(exact[0], asked=name)
    if not exact:
        known = [listing.reference for listing in list_backbones()]
        near = nearest(name, known)
        raise UnknownName(f"No backbone is called {name!r}." + (f" The nearest are {', '.join(near)}." if near else ""))
    several = ", ".join(str(resolution.reference) for resolution in exact)
    raise UnknownName(f"{name!r} is several backbones: {several}; say which.")


def _search(reference: Reference, catalog: Catalog) -> tuple[str, str, CatalogEntry]:
    entries = {entry.name: entry for entry in catalog.entries}
    for how, full in _candidates(reference.name, catalog, entries):
        architecture, _, tag = full.partition(".")
        entry = entries[architecture]
        if not tag:
            return (f"{architecture}.{entry.tags[0]}" if entry.tags else architecture), how, entry
        match = [known for known in entry.tags if known.casefold() == tag.casefold()]
        if match:
            return f"{architecture}.{match[0]}", how, entry
        tags = ", ".join(nearest(tag, entry.tags) or entry.tags[:8]) or "none"
        raise UnknownName(f"{reference.provider}:{architecture} has no weights tagged {tag!r}; its tags are {tags}.")
    near = nearest(reference.name, [*entries, *catalog.aliases])
    hint = f" The nearest are {', '.join(near)}." if near else ""
    raise UnknownName(
        f"{reference.provider} ({catalog.library} {catalog.version}) has no backbone {reference.name!r}.{hint}"
    )


def _candidates(name: str, catalog: Catalog, entries: dict[str, CatalogEntry]) -> Iterator[tuple[str, str]]:
    architecture, dot, tag = name.partition(".")
    if architecture in entries:
        yield "exact", name
    folded = [known for known in entries if _fold(known) == _fold(architecture)]
    if len(folded) == 1:
        yield "folded", folded[0] + dot + tag
    for old in (name, architecture):
        if (new := catalog.renames.get(old)) is not None and new.partition(".")[0] in entries:
            yield "renamed", new + (dot + tag if old == architecture and "." not in new else "")
    for alias, full in catalog.aliases.items():
        if _fold(alias) == _fold(architecture) and full in entries:
            yield "alias", full + dot + tag
    begins = [known for known in entries if _fold(known).startswith(_fold(architecture))]
    if len(begins) == 1:
        yield "prefix", begins[0] + dot + tag


def _fold(text: str) -> str:
    return text.casefold().translate({ord(c): None for c in "-_. "})
