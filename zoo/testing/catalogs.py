"""Make a plugin's ``catalog.json``: ``python -m zoo.testing.catalogs NAME…``.

Asks the provider what it offers, then for the spec of every architecture, and writes the file beside the plugin's
``__init__.py``. Run it once for each version of the library that a release is tested with. ``zoo catalog build
--measure`` does the same into the user's cache.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from rich.progress import track

from zoo.catalog import catalog_file, make, measure, measure_all, write
from zoo.errors import PluginError
from zoo.registry import registry

__all__ = ["main", "measure"]


def main(names: list[str]) -> None:
    """Make the catalogs of some plugins, everything measured anew.

    Raises:
        PluginError: If a plugin is not a package with a folder of its own.
    """
    for name in names:
        path = catalog_file(registry().plugin(name))
        if path is None:
            raise PluginError(f"The plugin {name!r} has no folder to put its catalog into.")
        catalog = make(name)
        stream = measure_all(registry().provider(name), name, catalog)
        entries = tuple(track(stream, description=name, total=len(catalog.entries)))
        write(replace(catalog, entries=entries), path)


if __name__ == "__main__":
    main(sys.argv[1:])
