"""``zoo.load`` and ``zoo.verify``: a folder as it is, a URL by way of the cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zoo.bundle.loading
import zoo.bundle.verifying
from zoo.bundle.verifying import Report
from zoo.errors import BundleError
from zoo.remote.address import at_home, elsewhere
from zoo.remote.alike import alike

if TYPE_CHECKING:
    from zoo.ensembling.ensemble import Ensemble
    from zoo.model import Model

__all__ = ["load", "verify"]


@alike(zoo.bundle.loading.load)
def load(path: str | Path, **options: Any) -> Model | Ensemble:
    """Load a bundle from a folder or a URL; the arguments are those of the function that loads a folder."""
    address = elsewhere(path)
    if address is None:
        return zoo.bundle.loading.load(at_home(path), **options)
    from zoo.remote.fetching import fetch
    from zoo.remote.shelf import Shelf

    shelf = Shelf.of_user()
    for _ in range(2):
        found = fetch(address, shelf, members=tuple(options.get("members") or ()))
        try:
            return zoo.bundle.loading.load(found.folder, **options)
        except BundleError as error:
            failure = error
        if not shelf.evict(found.identity, found.manifest.files):  # else the disk has spoilt what was downloaded
            break
    raise BundleError(f"{address.shown} cannot be loaded: {failure}") from failure


@alike(zoo.bundle.verifying.verify)
def verify(path: str | Path, **options: Any) -> Report:
    """Check a bundle in a folder or at a URL; the arguments are those of the function that checks a folder."""
    address = elsewhere(path)
    if address is None:
        return zoo.bundle.verifying.verify(at_home(path), **options)
    from zoo.remote.fetching import fetch_anew
    from zoo.remote.shelf import Shelf

    signed = options.get("key") is not None or options.get("identity") is not None
    found, problems = fetch_anew(address, Shelf.of_user(), signed=signed)
    if found is None:
        return Report(path=address.shown, problems=problems, signed=False if signed else None)
    return replace(zoo.bundle.verifying.verify(found.folder, **options), path=address.shown)
