"""Which catalogs there are, and where each is: shipped with its plugin, or made on this machine and kept in the cache.

A shipped file serves the version of the library that it was made with. For another version, and for a plugin that ships
none, the provider is asked once, and the answer is kept under ``catalog/`` in the cache folder, one file for each
version of plugin and library.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import quote, unquote

from zoo.cache import cache_folder
from zoo.catalog.files import read, write
from zoo.catalog.making import make
from zoo.contracts.catalog import Catalog
from zoo.errors import PluginError, UnknownName, ZooError
from zoo.registry import Plugin, registry

__all__ = ["cached_path", "catalog_file", "catalog_of", "catalogs", "providers", "shipped_path"]

log = logging.getLogger("zoo")


def providers() -> list[str]:
    """List the plugins that have backbones, or may have; imports none of them.

    A plugin has backbones if it ships a catalog. One that ships none may have if the source of its module speaks of
    the hook ``zoo_provider``, or cannot be read.
    """
    return [plugin.name for plugin in registry().usable() if shipped_path(plugin) is not None or _may_provide(plugin)]


def catalogs(provider: str | None = None) -> list[tuple[str, Catalog]]:
    """Give the catalog of one provider, or those of all; of all, one that cannot be had is a warning and no error.

    Raises:
        UnknownName: If the one provider is not installed, or has no backbones.
        PluginError: If its catalog cannot be read or made, or its library is not installed.
    """
    if provider is not None:
        return [(provider, catalog_of(provider))]
    found = []
    for name in providers():
        try:
            found.append((name, catalog_of(name)))
        except UnknownName:
            continue  # it has no backbones after all
        except ZooError as error:
            log.warning("%s", error)
    return found


@lru_cache(maxsize=64)
def catalog_of(provider: str) -> Catalog:
    """Read a provider's catalog: shipped, cached, or made anew and cached.

    What was made on this machine for these very versions goes before a shipped file that is older.

    Raises:
        UnknownName: If no such provider is installed, or the plugin has no backbones.
        PluginError: If its catalog cannot be read or made, or its library is not installed.
    """
    plugin = registry().plugin(provider)
    path = shipped_path(plugin)
    if path is None:
        return _cached(plugin) or _made(plugin, None)
    shipped = read(path)
    installed = _installed_version(shipped.library)
    if installed is None:
        library = shipped.library
        raise PluginError(f"The backbones of {provider!r} are unavailable: they need {library}; pip install {library}.")
    fits = _same(installed, shipped.version)
    if (kept := _cached(plugin, newer_than=path if fits else None)) is not None:
        return kept
    if fits:
        return shipped
    try:
        return _made(plugin, shipped)
    except PluginError as error:
        log.warning("%s The list for %s %s is used.", error, shipped.library, shipped.version)
        return shipped


def _made(plugin: Plugin, shipped: Catalog | None) -> Catalog:
    """Ask the provider, and keep its answer if the cache can be written."""
    if shipped is None:
        log.info("Listing the backbones of %s %s, once.", plugin.distribution, plugin.version)
    else:
        library = shipped.library
        log.info("Listing the backbones of %s %s, once.", library, _installed_version(library))
    fresh = make(plugin.name, shipped)
    try:
        write(fresh, cached_path(plugin, fresh.library))
    except OSError as error:
        log.info("The catalog is not kept, since the cache cannot be written: %s.", error)
    return fresh


# --- places


def catalog_file(plugin: Plugin) -> Path | None:
    """Name the ``catalog.json`` in a plugin's package, there or not; None for a module that is no package.

    The package is found, not imported.
    """
    with suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(plugin.module.partition(".")[0])
        if spec is not None and spec.submodule_search_locations and spec.origin is not None:
            return Path(spec.origin).with_name("catalog.json")
    return None


def shipped_path(plugin: Plugin) -> Path | None:
    """Find the catalog that a plugin ships; None if it ships none."""
    path = catalog_file(plugin)
    return path if path is not None and path.is_file() else None


def cached_path(plugin: Plugin, library: str) -> Path:
    """Name the file in the cache for the installed versions of a plugin and its library; it need not be there."""
    pieces = (plugin.name, plugin.version, library, _installed_version(library) or "none")
    return cache_folder("catalog") / ("@".join(quote(piece, safe="") for piece in pieces) + ".json")


def _cached(plugin: Plugin, newer_than: Path | None = None) -> Catalog | None:
    """Read what was made for the installed versions; a spoilt file is removed.

    Args:
        plugin: Whose.
        newer_than: Leave out what is older than this file.
    """
    with suppress(OSError):
        for path in sorted(cache_folder("catalog").iterdir()):
            pieces = [unquote(piece) for piece in path.name.removesuffix(".json").split("@")]
            if not path.name.endswith(".json") or len(pieces) != 4 or pieces[:2] != [plugin.name, plugin.version]:
                continue
            if (_installed_version(pieces[2]) or "none") != pieces[3]:
                continue
            if newer_than is not None and path.stat().st_mtime <= newer_than.stat().st_mtime:
                continue
            try:
                return read(path)
            except PluginError:
                path.unlink(missing_ok=True)
    return None


def _may_provide(plugin: Plugin) -> bool:
    """Say whether a plugin may have the hook, from the text of its module."""
    top, *below = plugin.module.split(".")
    with suppress(ImportError, ValueError, OSError):
        spec = importlib.util.find_spec(top)
        if spec is not None and spec.origin is not None:
            source = Path(spec.origin)
            if below:
                inside = source.parent.joinpath(*below)
                source = inside / "__init__.py" if inside.is_dir() else inside.with_suffix(".py")
            return "zoo_provider" in source.read_text(encoding="utf-8")
    loaded = sys.modules.get(plugin.module)
    return loaded is None or hasattr(loaded, "zoo_provider")


# --- versions


def _installed_version(library: str) -> str | None:
    try:
        return version(library)
    except (PackageNotFoundError, ValueError):
        return None


def _same(one: str, other: str) -> bool:
    """Compare versions without their local part: 0.29.2+cu130 offers what 0.29.2 offers."""
    return one.partition("+")[0] == other.partition("+")[0]
