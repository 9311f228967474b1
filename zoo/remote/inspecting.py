"""``zoo.inspect`` and ``zoo.diff``: a folder as it is, a URL by way of the cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import zoo.bundle.comparing
import zoo.bundle.inspecting
from zoo.bundle.comparing import BundleDiff
from zoo.bundle.inspecting import Inspection
from zoo.remote.address import at_home, elsewhere
from zoo.remote.alike import alike

__all__ = ["diff", "inspect"]


@alike(zoo.bundle.inspecting.inspect)
def inspect(path: str | Path) -> Inspection:
    """Say what a bundle in a folder or at a URL holds; the argument is that of the function that takes a folder."""
    folder, shown = _brought(path)
    found = zoo.bundle.inspecting.inspect(folder)
    return found if shown is None else replace(found, path=shown)


@alike(zoo.bundle.comparing.diff)
def diff(a: str | Path, b: str | Path) -> BundleDiff:
    """Compare bundles in folders or at URLs; the arguments are those of the function that takes folders."""
    (one, shown_one), (other, shown_other) = _brought(a), _brought(b)
    found = zoo.bundle.comparing.diff(one, other)
    return replace(found, a=shown_one or found.a, b=shown_other or found.b)


def _brought(path: str | Path) -> tuple[str | Path, str | None]:
    """Give the folder of a bundle, brought into the cache if it is at a URL, and then what may be printed of that."""
    address = elsewhere(path)
    if address is None:
        return at_home(path), None
    from zoo.remote.fetching import fetch
    from zoo.remote.shelf import Shelf

    return fetch(address, Shelf.of_user()).folder, address.shown
