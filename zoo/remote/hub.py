"""A folder of a model repository on the Hugging Face hub; a save is one commit, and a load reads from one."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RemoteEntryNotFoundError

from zoo.bundle.manifest import MOST_BYTES, FileEntry
from zoo.bundle.paths import MANIFEST, SIGNATURE
from zoo.errors import BundleError
from zoo.remote.address import Address, Repository
from zoo.remote.places import MOST_SIGNATURE
from zoo.remote.retrying import Unreachable, call, may_pass, told
from zoo.remote.shelf import Shelf, file_digest, link

__all__ = ["HubPlace"]

_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubPlace:
    """A folder of a model repository; tokens, mirrors and the like are huggingface_hub's own.

    Args:
        address: Its URL.

    Raises:
        BundleError: If the URL has another form.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.repository = Repository.of(address)
        self._commit: str | None = None

    def manifest(self) -> bytes | None:
        """Read ``zoo.json`` of what the revision is now; all other files are then read from that commit."""
        self._commit = None
        return self._small(MANIFEST, MOST_BYTES)

    def signature(self) -> bytes | None:
        """Read ``model.sig``."""
        return self._small(SIGNATURE, MOST_SIGNATURE)

    def _small(self, name: str, most: int) -> bytes | None:
        where = f"{self.address.shown}/{name}"

        def look() -> huggingface_hub.HfFileMetadata | None:
            try:
                return huggingface_hub.get_hf_file_metadata(self._url(name))
            except RemoteEntryNotFoundError:
                return None

        found = call(f"{where} cannot be read", self.address, look)
        if found is None:
            return None
        if found.commit_hash is None or _COMMIT.fullmatch(found.commit_hash) is None:
            raise BundleError(f"{where} comes from no hub: the answer names no commit. See HF_ENDPOINT.")
        if found.size is not None and found.size > most:
            raise BundleError(f"{where} must have {most} bytes or fewer, got {found.size}.")
        self._commit = found.commit_hash
        with self._download(name, force=True).open("rb") as file:
            return file.read(most + 1)

    def _url(self, name: str) -> str:
        revision = self._commit or self.repository.revision
        return huggingface_hub.hf_hub_url(self.repository.name, self.repository.path(name), revision=revision)

    def fetch(self, name: str, entry: FileEntry, shelf: Shelf, *, fresh: bool) -> Path:
        """Have huggingface_hub download a file to its own cache, and link it to ours once it has the right digest."""
        where = f"{self.address.shown}/{name}"
        url = self._url(name)
        found = call(f"{where} cannot be read", self.address, lambda: huggingface_hub.get_hf_file_metadata(url))
        if found.size is not None and found.size != entry.size:
            raise BundleError(f"{where} must have {entry.size} bytes, got {found.size}: it is not what was saved.")
        for force in (fresh, True):
            place = Path(os.path.realpath(self._download(name, force=force)))
            if place.stat().st_size == entry.size and (blob := _shelve(place, entry, shelf)) is not None:
                return blob
        raise BundleError(f"{where} is not what was saved: it is damaged. Save it again.")

    def _download(self, name: str, *, force: bool) -> Path:
        def get() -> str:
            return huggingface_hub.hf_hub_download(
                self.repository.name,
                self.repository.path(name),
                revision=self._commit or self.repository.revision,
                force_download=force,
            )

        return Path(call(f"{self.address.shown}/{name} cannot be read", self.address, get))

    def check_writable(self) -> None:
        """Refuse to save to a commit, which is what it is for ever."""
        if self.repository.revision is not None and _COMMIT.fullmatch(self.repository.revision):
            raise BundleError(f"{self.address.shown} is a commit and cannot change; save to a branch.")

    def send(self, folder: Path, names: Sequence[str], stale: Sequence[str]) -> None:
        """Write all files, and remove the stale ones, as one commit on top of the one that was looked at."""
        path = self.repository.path
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path_in_repo=path(name), path_or_fileobj=str(folder / name))
            for name in (*names, MANIFEST)
        ]
        hub = HfApi()
        what = f"{self.address.shown} cannot be written"
        if stale:
            listing = call(what, self.address, lambda: hub.list_repo_files(self.repository.name, revision=self._commit))
            there = set(listing)
            operations += [CommitOperationDelete(path_in_repo=path(name)) for name in stale if path(name) in there]
        try:
            hub.create_commit(
                self.repository.name,
                operations,
                commit_message="Save a zoo bundle",
                revision=self.repository.revision,
                parent_commit=self._commit,
            )
            return
        except Exception as error:  # one attempt: a commit whose answer was lost may be there
            passing, reason = may_pass(error), told(error, self.address)
        name = self.repository.name
        raise Unreachable(
            f"{what}: {reason}. The repository must exist (hf repos create {name}) and you must be logged in "
            "(hf auth login).",
            passing=passing,
        )


def _shelve(place: Path, entry: FileEntry, shelf: Shelf) -> Path | None:
    """Link a file to the shelf, or copy it; None if it is not what it must be."""
    target = shelf.blob(entry.blake3)
    own = target.with_name(f"{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        link(place, own)
        try:
            if file_digest(own) != entry.blake3:
                return None
            os.replace(own, target)
        finally:
            own.unlink(missing_ok=True)
    except (OSError, shutil.Error) as error:
        raise BundleError(f"{shelf.root} cannot be written: {error}.") from error
    return target
