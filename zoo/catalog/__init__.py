"""The catalog: which backbones there are, and which one a name means, without importing a provider.

    files       a catalog as JSON
    index       which catalog serves an installed library: shipped, cached, or made anew
    making      asking a provider for its list, and for the spec of each architecture on it
    building    ``zoo catalog build``
    resolving   from a loose name to one backbone
    listing     the backbones that fit

Each provider ships ``catalog.json`` beside its ``__init__.py`` for the library version that it was tested with. For
another version the catalog is made anew, once, into the user's cache. Nothing here uses the network.
"""

from __future__ import annotations

from zoo.catalog.building import Built, build_catalog
from zoo.catalog.files import read, write
from zoo.catalog.index import catalog_file, catalog_of, catalogs, providers
from zoo.catalog.listing import Listing, list_backbones
from zoo.catalog.making import make, measure, measure_all
from zoo.catalog.resolving import Resolution, info, resolve

__all__ = [
    "Built",
    "Listing",
    "Resolution",
    "build_catalog",
    "catalog_file",
    "catalog_of",
    "catalogs",
    "info",
    "list_backbones",
    "make",
    "measure",
    "measure_all",
    "providers",
    "read",
    "resolve",
    "write",
]
