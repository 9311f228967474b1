"""Make a plugin's ``catalog.json``: ``python -m zoo.testing.catalogs NAME…``.

Asks the provider what it offers, then for the spec of every architecture, and writes the file beside the plugin's
``__init__.py``. Run it once for each version of the library that a release is tested with.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

from rich.progress import track

from zoo.catalog import write
from zoo.contracts.catalog import CatalogEntry
from zoo.contracts.provider import Provider
from zoo.errors import PluginError, ZooError
from zoo.reference import Reference
from zoo.registry import registry

__all__ = ["main", "measure"]


def measure(provider: Provider, name: str, entry: CatalogEntry) -> CatalogEntry:
    """Fill in what only the spec knows: parameters, widths, size, capabilities, modality.

    An architecture whose spec cannot be made keeps what the catalog said, and its reason under ``requires``.
    """
    full = f"{entry.name}.{entry.tags[0]}" if entry.tags else entry.name
    try:
        spec = provider.spec(Reference(name, full))
    except ZooError as error:
        return replace(entry, capabilities=(), requires=entry.requires or str(error).splitlines()[0][:200])
    return replace(
        entry,
        modality=spec.modality,
        parameters=spec.parameters,
        pooled_dim=spec.pooled_dim,
        size=spec.inputs[0].size,
        capabilities=spec.capabilities,
    )


def main(names: list[str]) -> None:
    """Make the catalogs of some plugins.

    Raises:
        PluginError: If a plugin is not a package with a folder of its own.
    """
    for name in names:
        plugin = registry().plugin(name)
        found = importlib.util.find_spec(plugin.module.partition(".")[0])
        if found is None or found.origin is None:
            raise PluginError(f"The plugin {name!r} has no folder to put its catalog into.")
        provider = registry().provider(name)
        catalog = provider.catalog()
        entries = tuple(measure(provider, name, e) for e in track(catalog.entries, description=name))
        write(replace(catalog, entries=entries), Path(found.origin).with_name("catalog.json"))


if __name__ == "__main__":
    main(sys.argv[1:])
