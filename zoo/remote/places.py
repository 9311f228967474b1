"""What every place that bundles are kept at can do, and which one a URL means."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from zoo.bundle.manifest import FileEntry
from zoo.remote.address import HUB, WEB, Address
from zoo.remote.shelf import Shelf

__all__ = ["MOST_SIGNATURE", "Place", "open_place"]

MOST_SIGNATURE = 2**24
"""Bytes that a signature may have."""


class Place(Protocol):
    """A folder elsewhere; errors are BundleErrors, and what may pass has been tried again already."""

    def manifest(self) -> bytes | None:
        """Read ``zoo.json`` as it is now; None if there is none."""

    def signature(self) -> bytes | None:
        """Read ``model.sig``, which no manifest lists; None if there is none."""

    def fetch(self, name: str, entry: FileEntry, shelf: Shelf, *, fresh: bool) -> Path:
        """Bring a file to the shelf, as a blob of the right size and digest.

        Args:
            name: Its path in the bundle.
            entry: Its size and digest.
            shelf: Where it is put.
            fresh: Whether to read all of it now, though a part of it may be here.
        """

    def check_writable(self) -> None:
        """Refuse a place that can only be read."""

    def send(self, folder: Path, names: Sequence[str], stale: Sequence[str]) -> None:
        """Write a bundle: ``zoo.json`` last, or all at once; then remove files that only the old one had.

        Args:
            folder: The bundle on this machine.
            names: Its files, without ``zoo.json``.
            stale: Files that only the bundle has that is replaced; some may not be there.
        """


def open_place(address: Address) -> Place:
    """Give the place that a URL means; nothing is asked of it yet.

    Raises:
        BundleError: If the URL cannot be used, or a package is missing that it needs.
    """
    if address.scheme == HUB:
        from zoo.remote.hub import HubPlace

        return HubPlace(address)
    if address.scheme in WEB:
        from zoo.remote.web import WebPlace

        return WebPlace(address)
    from zoo.remote.files import FilePlace

    return FilePlace(address)
