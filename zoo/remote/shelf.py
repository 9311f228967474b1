"""What was downloaded, in the cache folder: blobs by their digest, parts of blobs, and folders of whole bundles.

``remote/blobs/<2>/<62>`` holds only what had its digest when it was put there, by a rename. Who downloads a blob writes
to a file of its own; what an interruption left of one is ``remote/parts/<digest>.part``, which the next one takes by
renaming it, so no two ever write to one file, and no lock is needed. ``remote/<id>`` is a bundle with its id,
the digest of ``zoo.json``, as its name, its files linked to the blobs.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from zoo.bundle.hashing import hasher
from zoo.bundle.manifest import FileEntry
from zoo.bundle.paths import MANIFEST, SIGNATURE
from zoo.bundle.publishing import fsync_folder, here, lives, new_name, publish, remove, sweep
from zoo.cache import cache_folder
from zoo.errors import BundleError

__all__ = ["Part", "Shelf", "file_digest", "link"]

_CHUNK = 2**20
_STALE = 7 * 24 * 3600
"""Seconds after which a part that nobody goes on with is removed."""

_MINE = re.compile(r"([0-9a-f]{64})\.([0-9a-f]{4})-(\d{1,10})-[0-9a-f]{8}\.tmp")


class Part:
    """A blob that is being downloaded: a file of this process alone, its length, and the digest of what is in it.

    Args:
        path: The file; what is in it already is hashed.
        most: Its length when it is whole; a longer one is thrown away.
    """

    def __init__(self, path: Path, most: int) -> None:
        self.path = path
        self._file = path.open("r+b")
        self._hash = hasher()
        self.length = 0
        if os.fstat(self._file.fileno()).st_size > most:
            self.restart()
        while chunk := self._file.read(_CHUNK):
            self._hash.update(chunk)
            self.length += len(chunk)

    def restart(self) -> None:
        """Throw away what is there."""
        self._file.seek(0)
        self._file.truncate()
        self._hash, self.length = hasher(), 0

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            BundleError: If the cache folder cannot be written.
        """
        try:
            self._file.write(data)
        except OSError as error:
            raise BundleError(f"{self.path.parent} cannot be written: {error.strerror or error}.") from error
        self._hash.update(data)
        self.length += len(data)

    def digest(self) -> str:
        """Give the digest of all that was written."""
        return self._hash.hexdigest()

    def settle(self) -> None:
        """Make it last through a power cut."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Shelf:
    """The folder ``remote`` in the cache.

    Args:
        root: The folder; it is made when something is put there.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def of_user(cls) -> Self:
        """Give the one in the user's cache."""
        return cls(Path(os.path.abspath(cache_folder("remote"))))

    # --- blobs

    def blob(self, digest: str) -> Path:
        """Say where the blob with a digest is, or would be."""
        return self.root / "blobs" / digest[:2] / digest[2:]

    def has(self, entry: FileEntry) -> bool:
        """Say whether a blob is there, a regular file of the right size."""
        try:
            found = os.lstat(self.blob(entry.blake3))
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size == entry.size

    def check_room(self, files: Mapping[str, FileEntry]) -> None:
        """Refuse files for which there is no room on the disk, before any of them is asked for.

        Raises:
            BundleError: If there is less.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        needed = sum({entry.blake3: entry.size for entry in files.values() if not self.has(entry)}.values())
        if needed > (free := shutil.disk_usage(self.root).free):
            raise BundleError(f"{self.root} needs {needed:,} bytes for this bundle, and {free:,} are free.")

    @contextlib.contextmanager
    def part(self, entry: FileEntry, *, resume: bool = True) -> Iterator[Part]:
        """Give a file to download a blob to; unless it is kept, what is in it stays for the next attempt.

        Args:
            entry: What the blob must be.
            resume: Whether to go on with what an earlier attempt left.
        """
        folder = self.root / "parts"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{entry.blake3}.{here()}-{os.getpid()}-{secrets.token_hex(4)}.tmp"
        if not (resume and self._take(entry.blake3, path)):
            path.touch(exist_ok=False)
        part: Part | None = None
        try:
            part = Part(path, entry.size)
            yield part
        finally:
            with contextlib.suppress(OSError):
                if part is not None:
                    part.close()
                if part is not None and part.length:
                    os.replace(path, folder / f"{entry.blake3}.part")
                else:
                    path.unlink()

    def _take(self, digest: str, path: Path) -> bool:
        """Take what an earlier attempt left; a rename, which only one can win."""
        left = [path.with_name(f"{digest}.part")]
        now = time.time()
        for other in path.parent.iterdir():
            found = _MINE.fullmatch(other.name)
            dead = found is not None and found[2] == here() and not lives(int(found[3]))
            with contextlib.suppress(OSError):
                if now - other.stat().st_mtime > _STALE and (dead or found is None or found[2] != here()):
                    other.unlink()
                elif dead and found is not None and found[1] == digest:
                    left.append(other)
        for other in left:
            with contextlib.suppress(OSError):
                os.rename(other, path)
                return True
        return False

    def keep(self, part: Part, entry: FileEntry) -> Path:
        """Put a whole part in its place among the blobs.

        Raises:
            BundleError: If it is not what it must be.
        """
        part.settle()
        if part.digest() != entry.blake3 or part.length != entry.size or part.path.stat().st_size != entry.size:
            raise BundleError(f"{part.path} is not the blob {entry.blake3[:12]}….")
        target = self.blob(entry.blake3)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.chmod(part.path, 0o444)
        os.replace(part.path, target)
        fsync_folder(target.parent)
        return target

    def drop(self, entry: FileEntry) -> None:
        """Remove a blob that is not what its name says."""
        self.blob(entry.blake3).unlink(missing_ok=True)

    # --- folders

    def folder(self, identity: str) -> Path:
        """Say where the bundle with an id is, or would be."""
        return self.root / identity

    def is_whole(self, identity: str, files: Mapping[str, FileEntry]) -> bool:
        """Say whether the bundle is there with every file at its size; their digests are checked when it is loaded."""
        folder = self.folder(identity)
        try:
            sizes = {name: os.lstat(folder / name).st_size for name in files}
        except OSError:
            return False
        whole = all(sizes[name] == entry.size for name, entry in files.items())
        return whole and file_digest(folder / MANIFEST) == identity

    def assemble(self, identity: str, manifest: bytes, files: Mapping[str, FileEntry]) -> Path:
        """Make the folder of a bundle whose blobs are all there.

        Args:
            identity: Digest of the manifest.
            manifest: Its bytes.
            files: The bundle's files.
        """
        target = self.folder(identity)
        sweep(target)
        staged = new_name(target, "tmp")
        staged.mkdir(parents=True)
        try:
            for name, entry in files.items():
                place = staged / name
                place.parent.mkdir(parents=True, exist_ok=True)
                link(self.blob(entry.blake3), place)
            (staged / MANIFEST).write_bytes(manifest)
            publish(staged, target, overwrite=True)
        finally:
            remove(staged)
        return target

    def put_signature(self, identity: str, data: bytes | None) -> None:
        """Put the signature of a bundle into its folder; None takes away one that is there."""
        place = self.folder(identity) / SIGNATURE
        if data is None:
            place.unlink(missing_ok=True)
            return
        own = self.root / f"{identity}.{os.getpid()}-{secrets.token_hex(4)}.sig"
        own.write_bytes(data)
        os.replace(own, place)

    def evict(self, identity: str, files: Mapping[str, FileEntry]) -> list[str]:
        """Remove those files of a bundle, and their blobs, that are damaged; name them."""
        folder = self.folder(identity)
        bad = [name for name, entry in files.items() if file_digest(folder / name) != entry.blake3]
        for name in bad:
            self.drop(files[name])
        if bad:
            remove(folder)
        return bad

    # --- where it came from

    def remember(self, key: str, identity: str) -> None:
        """Note which bundle an address led to."""
        place = self.root / "seen" / key
        place.parent.mkdir(parents=True, exist_ok=True)
        own = place.with_name(f"{key}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        own.write_text(identity, encoding="ascii")
        os.replace(own, place)

    def remembered(self, key: str) -> Path | None:
        """Give the folder of the bundle that an address led to, if it is still there."""
        try:
            identity = (self.root / "seen" / key).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            return None
        known = re.fullmatch(r"[0-9a-f]{64}", identity) is not None
        return self.folder(identity) if known and (self.folder(identity) / MANIFEST).is_file() else None


def link(source: Path, target: Path) -> None:
    """Give a file a second name; where the file system has no hard links, copy it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def file_digest(path: Path) -> str | None:
    """Give the digest of a file; None if it cannot be read."""
    found = hasher()
    try:
        with path.open("rb") as file:
            while data := file.read(_CHUNK):
                found.update(data)
    except OSError:
        return None
    return str(found.hexdigest())
