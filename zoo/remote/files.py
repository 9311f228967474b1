"""Any file system that fsspec knows: object stores, other machines, memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from zoo.bundle.manifest import MOST_BYTES, FileEntry
from zoo.bundle.paths import MANIFEST, SIGNATURE
from zoo.errors import BundleError, nearest
from zoo.remote.address import Address
from zoo.remote.places import MOST_SIGNATURE
from zoo.remote.retrying import call, told
from zoo.remote.shelf import Shelf
from zoo.remote.streaming import Stream, download, paced

__all__ = ["FilePlace", "file_system"]

log = logging.getLogger("zoo")

_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "'headzoo[s3]'"),
    **dict.fromkeys(("http", "https"), "aiohttp"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("abfs", "abfss", "az", "adl"), "adlfs"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    "smb": "smbprotocol",
    "oss": "ossfs",
    "oci": "ocifs",
    "webdav": "webdav4",
    "dropbox": "dropboxdrivefs",
}
_NO_FOLDERS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "oci", "memory"})
"""Schemes whose files need no folder to be made first; where one would be made, a missing bucket would be, too."""


def file_system(address: Address, **options: Any) -> tuple[Any, str]:
    """Open the file system of a URL.

    Args:
        address: The URL.
        options: What its constructor takes beside what the URL says.

    Returns:
        fsspec's file system, and the path in it.

    Raises:
        BundleError: If fsspec knows no such scheme, or a package is missing, or it cannot be opened.
    """
    try:
        fsspec.get_filesystem_class(address.scheme)
    except ImportError:
        package = _PACKAGES.get(address.scheme)
        needs = f"; install it with: pip install {package}" if package else f" that serves {address.scheme}://"
        raise BundleError(f"{address.shown} needs a package that is not installed{needs}.") from None
    except ValueError:
        near = nearest(address.scheme, fsspec.available_protocols(), most=3)
        raise BundleError(
            f"{address.shown} cannot be used: no file system is called {address.scheme!r}"
            f"{'; did you mean ' + ' or '.join(near) if near else ''}."
        ) from None
    opened = call(
        f"{address.shown} cannot be opened",
        address,
        lambda: fsspec.core.url_to_fs(address.url, skip_instance_cache=True, **options),
    )
    return opened[0], str(opened[1])


class FilePlace:
    """A folder of a file system of fsspec.

    Args:
        address: Its URL.

    Raises:
        BundleError: If there is no such file system here.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.system, self.root = self.connect()

    def connect(self) -> tuple[Any, str]:
        """Give the file system and the path in it."""
        return file_system(self.address)

    def path(self, name: str) -> str:
        """Give the path of a file."""
        return f"{self.root.rstrip('/')}/{name}"

    @contextmanager
    def opened(self, name: str, at: int) -> Iterator[Stream]:
        """Open a file at a byte."""
        self.system.invalidate_cache()
        with self.system.open(self.path(name), "rb") as file:
            if at:
                file.seek(at)
            yield Stream(at, paced(file.read))

    def manifest(self) -> bytes | None:
        """Read ``zoo.json``, a byte more of it at the most than a manifest may have."""
        return self._small(MANIFEST, MOST_BYTES)

    def signature(self) -> bytes | None:
        """Read ``model.sig``."""
        return self._small(SIGNATURE, MOST_SIGNATURE)

    def _small(self, name: str, most: int) -> bytes | None:
        def read() -> bytes | None:
            data = bytearray()
            try:
                with self.opened(name, 0) as stream:
                    while len(data) <= most and (more := stream.read(most + 1 - len(data))):
                        data += more
            except FileNotFoundError:
                return None
            return bytes(data)

        return call(f"{self.address.shown}/{name} cannot be read", self.address, read)

    def fetch(self, name: str, entry: FileEntry, shelf: Shelf, *, fresh: bool) -> Path:
        """Download a file."""
        where = f"{self.address.shown}/{name}"
        return download(lambda at: self.opened(name, at), where, self.address, entry, shelf, fresh=fresh)

    def check_writable(self) -> None:
        """Say yes: whether we may is seen when we write."""

    def send(self, folder: Path, names: Sequence[str], stale: Sequence[str]) -> None:
        """Write the files, look whether all are there in full, write ``zoo.json``, and clear up."""
        for name in names:
            self._put(folder / name, name)
        for name in names:
            self._check_sent(folder / name, name)
        self._put(folder / MANIFEST, MANIFEST)
        for name in stale:
            try:
                self.system.rm_file(self.path(name))
            except FileNotFoundError:
                pass
            except Exception as error:  # the new bundle is complete, and this file is no part of it
                log.warning("%s/%s was left behind: %s", self.address.shown, name, told(error, self.address))

    def _put(self, source: Path, name: str) -> None:
        path = self.path(name)

        def put() -> None:
            try:
                self.system.put_file(str(source), path)
            except FileNotFoundError:
                if self.address.scheme in _NO_FOLDERS:
                    raise
                self.system.makedirs(path.rpartition("/")[0], exist_ok=True)
                self.system.put_file(str(source), path)

        call(f"{self.address.shown}/{name} cannot be written", self.address, put)

    def _check_sent(self, source: Path, name: str) -> None:
        where = f"{self.address.shown}/{name}"
        self.system.invalidate_cache()
        found = call(f"{where} cannot be read back", self.address, lambda: self.system.info(self.path(name)))
        size, must = found.get("size"), source.stat().st_size
        if isinstance(size, int) and size != must:
            raise BundleError(f"{where} has {size} bytes, {must} were written; save again.")
