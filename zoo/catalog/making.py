"""Asking a provider what it offers: its list, and the spec of every architecture on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from zoo.catalog.files import entry_as_json, entry_from_json
from zoo.contracts.catalog import Catalog, CatalogEntry
from zoo.errors import PluginError, ZooError
from zoo.reference import Reference
from zoo.registry import registry

if TYPE_CHECKING:
    from zoo.contracts.provider import Provider

__all__ = ["make", "measure", "measure_all"]

DIED = "the process died while it was measured"


def make(name: str, known: Catalog | None = None) -> Catalog:
    """Ask a provider for its list, which imports its library. Aliases of what is not on it are left out.

    Args:
        name: The plugin.
        known: A catalog for another version of the library: what was measured then is kept for what is there still.

    Raises:
        UnknownName: If there is no such provider.
        PluginError: If it cannot be imported, or cannot make its list.
    """
    provider = registry().provider(name)
    try:
        fresh = provider.catalog()
    except ZooError:
        raise
    except Exception as error:  # a stranger's code, or a library that has changed
        raise PluginError(f"The provider {name!r} cannot list its backbones: {_told(error)}.") from error
    if not isinstance(fresh, Catalog):
        raise PluginError(f"The provider {name!r}: catalog() must give a zoo.Catalog, got {type(fresh).__name__}.")
    measured = {entry.name: entry for entry in known.entries} if known is not None else {}
    entries = tuple(_kept(entry, measured.get(entry.name)) for entry in fresh.entries)
    names = {entry.name for entry in entries}
    there = {loose: full for loose, full in fresh.aliases.items() if {full, full.partition(".")[0]} & names}
    refused = {name: reason for name, reason in fresh.refused.items() if name not in names}
    return replace(fresh, entries=entries, aliases=there, refused=refused)


def _kept(entry: CatalogEntry, old: CatalogEntry | None) -> CatalogEntry:
    if old is None or entry.parameters is not None:
        return entry
    return replace(
        entry,
        modality=old.modality,
        parameters=old.parameters,
        pooled_dim=old.pooled_dim,
        size=entry.size or old.size,
        capabilities=old.capabilities,
        requires=entry.requires or old.requires,
    )


def measure(provider: Provider, name: str, entry: CatalogEntry) -> CatalogEntry:
    """Fill in what only the spec knows: parameters, widths, size, capabilities, modality.

    An architecture whose spec cannot be made is left with no capabilities, and the reason under ``requires`` unless
    something stands there already.

    Args:
        provider: Whose.
        name: The plugin's name, which begins references.
        entry: As the provider lists it.
    """
    full = f"{entry.name}.{entry.tags[0]}" if entry.tags else entry.name
    try:
        spec = provider.spec(Reference(name, full))
    except Exception as error:  # one that fails must not stop the others
        return _failed(entry, str(error) if isinstance(error, ZooError) else _told(error))
    return replace(
        entry,
        modality=spec.modality,
        parameters=spec.parameters,
        pooled_dim=spec.pooled_dim,
        size=spec.inputs[0].size,
        capabilities=spec.capabilities,
    )


def measure_all(provider: Provider, name: str, catalog: Catalog, journal: Path | None = None) -> Iterator[CatalogEntry]:
    """Measure every entry, one after another.

    Args:
        provider: Whose.
        name: The plugin's name.
        catalog: Its list.
        journal: A file that keeps what was measured, so that a run that is stopped goes on where it was. An entry at
            which the process died twice is not tried again. The caller removes the file once all is done.

    Raises:
        OSError: If the journal cannot be written.
    """
    done = {} if journal is None else _read_journal(journal)
    with ExitStack() as stack:
        log = None
        if journal is not None:
            journal.parent.mkdir(parents=True, exist_ok=True)
            log = stack.enter_context(journal.open("a", encoding="ascii"))
            log.write("\n")  # ends a line that a death may have cut
        for entry in catalog.entries:
            if entry.name not in done:
                yield _journaled(provider, name, entry, log)
            elif (known := done[entry.name]) is None:
                yield _failed(entry, DIED)
            else:
                yield replace(known, tags=entry.tags, licenses=entry.licenses)


def _journaled(provider: Provider, name: str, entry: CatalogEntry, log: IO[str] | None) -> CatalogEntry:
    """Measure one entry between two lines of the journal."""
    if log is None:
        return measure(provider, name, entry)
    _note(log, {"begun": entry.name})
    try:
        found = measure(provider, name, entry)
    except BaseException:
        _note(log, {"stopped": entry.name})
        raise
    _note(log, {"entry": entry_as_json(found)})
    return found


def _note(log: IO[str], line: object) -> None:
    log.write(json.dumps(line) + "\n")
    log.flush()


def _read_journal(path: Path) -> dict[str, CatalogEntry | None]:
    """Read what was measured; None stands for an entry that was begun twice and neither ended nor stopped."""
    done: dict[str, CatalogEntry | None] = {}
    begun: set[str] = set()
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return done
    for line in lines:
        try:
            ((kind, what),) = json.loads(line).items()
            if kind == "entry":
                entry = entry_from_json(what)
                done[entry.name] = entry
            elif kind == "stopped":
                begun.discard(str(what))
            elif str(what) in begun:
                done[str(what)] = None
            else:
                begun.add(str(what))
        except (ValueError, TypeError, AttributeError):
            continue  # cut by a death, or empty
    return done


def _failed(entry: CatalogEntry, reason: str) -> CatalogEntry:
    return replace(entry, capabilities=(), requires=entry.requires or " ".join(reason.split())[:200])


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
