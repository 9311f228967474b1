"""Fetching a whole bundle: ``zoo.json`` first, then the files that it lists and no others, then a folder of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from zoo.bundle.hashing import digest_of
from zoo.bundle.manifest import EnsembleManifest, Manifest, read
from zoo.bundle.paths import MANIFEST
from zoo.errors import BundleError
from zoo.remote.address import Address
from zoo.remote.places import Place, open_place
from zoo.remote.retrying import Unreachable, pause
from zoo.remote.shelf import Shelf

__all__ = ["Fetched", "fetch", "fetch_anew"]

GENERATIONS = 5
"""How often a bundle that is replaced while it is read is read from the beginning."""

SPOILT = 3
"""How often a ``zoo.json`` is read that cannot be used."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A bundle that is on this machine now.

    Args:
        folder: Its folder in the cache.
        identity: Its id: the digest of ``zoo.json``.
        manifest: Its manifest.
    """

    folder: Path
    identity: str
    manifest: Manifest | EnsembleManifest


def fetch(address: Address, shelf: Shelf, members: Collection[str] = ()) -> Fetched:
    """Bring a bundle into the cache; what is there already is not asked for again, but ``zoo.json`` always is.

    Args:
        address: Its URL.
        shelf: The cache.
        members: Names of an ensemble's members that the user says the folders of.

    Raises:
        BundleError: If it cannot be had, is damaged, or refers to bundles elsewhere.
    """
    place = open_place(address)
    failure: BundleError | None = None
    seen = b""
    for attempt in range(1, GENERATIONS + 1):
        try:
            data, manifest = _manifest(place, address)
        except Unreachable as error:
            raise _with_advice(error, address, shelf) from None
        if failure is not None and data == seen:
            raise failure
        seen = data
        check_members(manifest, address, members)
        try:
            return _bring(place, address, data, manifest, shelf)
        except Unreachable as error:
            if error.passing:
                raise _with_advice(error, address, shelf) from None
            failure = error  # a file that is gone, or refused: a newer bundle may be there
        except BundleError as error:
            failure = error
        if attempt < GENERATIONS:
            pause(1)
    raise BundleError(f"{address.shown} is replaced by others all the time; try again later.")


def _bring(place: Place, address: Address, data: bytes, manifest: Manifest | EnsembleManifest, shelf: Shelf) -> Fetched:
    identity = digest_of(data)
    try:
        if not shelf.is_whole(identity, manifest.files):
            shelf.check_room(manifest.files)
            for name, entry in sorted(manifest.files.items()):
                if not shelf.has(entry):
                    place.fetch(name, entry, shelf, fresh=False)
            shelf.assemble(identity, data, manifest.files)
        shelf.remember(address.key, identity)
    except OSError as error:
        raise BundleError(f"{shelf.root} cannot be written: {error.strerror or error}.") from error
    return Fetched(shelf.folder(identity), identity, manifest)


def fetch_anew(address: Address, shelf: Shelf, *, signed: bool) -> tuple[Fetched | None, list[str]]:
    """Bring a bundle into the cache and read every byte of it there anew, whatever was downloaded before.

    Args:
        address: Its URL.
        shelf: The cache.
        signed: Whether to bring its signature too.

    Returns:
        The bundle, None if something is wrong with it; and one sentence for each thing that is wrong.
    """
    try:
        place = open_place(address)
        data, manifest = _manifest(place, address)
        check_members(manifest, address, ())
    except BundleError as error:
        return None, [str(error)]
    problems: list[str] = []
    for name, entry in sorted(manifest.files.items()):
        try:
            place.fetch(name, entry, shelf, fresh=True)
        except BundleError as error:
            problems.append(str(error))
            if isinstance(error, Unreachable) and error.passing:  # nor would the others come
                break
    if problems:
        return None, problems
    try:
        found = _bring(place, address, data, manifest, shelf)
        if signed:
            shelf.put_signature(found.identity, place.signature())
    except BundleError as error:
        return None, [str(error)]
    except OSError as error:
        return None, [f"{shelf.root} cannot be written: {error.strerror or error}."]
    return found, []


def _manifest(place: Place, address: Address) -> tuple[bytes, Manifest | EnsembleManifest]:
    """Read ``zoo.json``; again where it cannot be used, since a byte may have fallen over on the way.

    Raises:
        BundleError: If there is none, or it is damaged, edited, or from a newer zoo.
    """
    where = f"{address.shown}/{MANIFEST}"
    before: bytes | None = None
    for attempt in range(1, SPOILT + 1):
        data = place.manifest()
        if data is None:
            raise Unreachable(f"There is no bundle at {address.shown}: it has no {MANIFEST}.", passing=False)
        try:
            return data, read(data, where)
        except BundleError:
            if data == before or attempt == SPOILT:
                raise
        before = data
        pause(attempt)
    raise AssertionError("the last attempt returns or raises")


def check_members(manifest: Manifest | EnsembleManifest, address: Address, members: Collection[str]) -> None:
    """Refuse an ensemble that refers to bundles elsewhere, which a URL says nothing of.

    Raises:
        BundleError: If it does, and the user does not say where they are.
    """
    if not isinstance(manifest, EnsembleManifest):
        return
    missing = [entry.name for entry in manifest.members if entry.path is not None and entry.name not in members]
    if missing:
        raise BundleError(
            f"{address.shown} is an ensemble that refers to bundles elsewhere, and from a URL they cannot be found: "
            f"{', '.join(missing)}. Say where they are with zoo.load(…, members={{{missing[0]!r}: …}}), or save the "
            "ensemble again with members='embed'."
        )


def _with_advice(error: Unreachable, address: Address, shelf: Shelf) -> Unreachable:
    """Add where an earlier download is, which is never taken for the bundle that is there now."""
    kept = shelf.remembered(address.key)
    if kept is None:
        return error
    told = f"{error} What was downloaded from there before is still here: zoo.load({str(kept)!r})."
    return Unreachable(told, passing=error.passing)
