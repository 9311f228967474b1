"""``zoo catalog build``: a provider's catalog made on this machine, into the user's cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from zoo.cache import cache_folder
from zoo.catalog.files import read, write
from zoo.catalog.index import cached_path, catalog_of, shipped_path
from zoo.catalog.making import make, measure_all
from zoo.contracts.catalog import Catalog, CatalogEntry
from zoo.errors import ConfigError, PluginError
from zoo.registry import registry

__all__ = ["Built", "build_catalog"]

Follow = Callable[[Iterator[CatalogEntry], int], Iterable[CatalogEntry]]


@dataclass(frozen=True, slots=True)
class Built:
    """A catalog that was made.

    Args:
        provider: Whose.
        catalog: What stands in the file.
        path: The file.
        failed: Names whose spec could not be made, if they were measured.
    """

    provider: str
    catalog: Catalog
    path: Path
    failed: tuple[str, ...] = ()


def build_catalog(provider: str, *, measured: bool = False, follow: Follow | None = None) -> Built:
    """Make a provider's catalog for the installed version of its library, and keep it in the cache.

    Args:
        provider: The plugin.
        measured: Whether to ask for the spec of every architecture, which gives parameters, widths and capabilities and
            may take minutes; without it, what a shipped catalog says of them is kept. A run that is stopped goes on
            where it was when it is called again.
        follow: Wraps the stream of measured entries, whose number it is told; for a progress bar.

    Raises:
        UnknownName: If there is no such provider.
        PluginError: If it cannot be imported, or cannot make its list.
        ConfigError: If the cache cannot be written.
    """
    plugin = registry().plugin(provider)
    shipped = shipped_path(plugin)
    known = None
    if shipped is not None:
        with suppress(PluginError):
            known = read(shipped)
    catalog = make(provider, known)
    path = cached_path(plugin, catalog.library)
    journal = path.with_suffix(".part")
    failed: tuple[str, ...] = ()
    try:
        if measured:
            stream = measure_all(registry().provider(provider), provider, catalog, journal)
            entries = tuple(stream if follow is None else follow(stream, len(catalog.entries)))
            catalog = replace(catalog, entries=entries)
            failed = tuple(entry.name for entry in entries if not entry.capabilities)
        write(catalog, path)
        journal.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"The catalog cannot be kept in {str(cache_folder('catalog'))!r}: {error.strerror or error}; "
            "set ZOO_CACHE to a folder that can be written."
        ) from error
    catalog_of.cache_clear()
    return Built(provider, catalog, path, failed)
