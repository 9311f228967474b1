"""The store: each set of tensors once, for any number of bundles that differ from it by little.

Below the root, ``$ZOO_STORE`` or ``zoo/store`` in the user's data folder:

- ``blobs/ab/cdef…``: safetensors files, named by their BLAKE3, read-only, never changed;
- ``states/<hex>.json``: a set of tensors by its state digest: the blob that holds it, and what it is for a reader;
- ``bundles/<hex>/<…>.json``: one small file for each bundle that was saved on top of that state: where it is.

Nothing here rests on locks, which many network file systems do not have: a file is written beside its place and renamed
into it whole, and all writers of one name write the same bytes. Whatever cannot be read, or is young, or may be needed
by a bundle that is not there at the moment, stays: the store rather keeps too much than loses something.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.bundle.hashing import digest_of, hasher
from zoo.bundle.manifest import MOST_BYTES, STATE, Manifest, read
from zoo.bundle.paths import MANIFEST
from zoo.bundle.plain_json import parse
from zoo.bundle.publishing import fsync_folder
from zoo.bundle.remembering import recall, remember
from zoo.errors import BundleError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Collected", "Store", "Stored"]

GRACE = 3600.0
"""Seconds for which something new is kept though nothing needs it yet: its bundle may be about to be published."""
_CHUNK = 2**20
_MOST = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One set of tensors in the store.

    Args:
        state_digest: What it is.
        label: What it is for a reader: the reference of the library's weights, or a bundle.
        blob: BLAKE3 of the file that holds it.
        size: Size of that file in bytes.
        tensors: Number of tensors.
        added: Seconds since the epoch.
        bundles: The folders of the bundles that were saved on top of it.
    """

    state_digest: str
    label: str
    blob: str
    size: int
    tensors: int
    added: float
    bundles: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What :meth:`Store.collect` removed, or would.

    Args:
        states: State digests of the sets of tensors that nothing needs.
        blobs: Number of files.
        bytes: Their size together.
    """

    states: tuple[str, ...]
    blobs: int
    bytes: int

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return asdict(self)


class Store:
    """The sets of tensors that bundles of kind ``delta`` differ from.

    Args:
        root: Its folder; None for the user's own. It is made when something is put in.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = Path(root) if root is not None else _home()

    def __contains__(self, state_digest: str) -> bool:
        return self._state(state_digest).is_file()

    def put(self, tensors: Mapping[str, Tensor], *, label: str, state_digest: str | None = None) -> str:
        """Keep a set of tensors; if it is there already nothing is written.

        Args:
            tensors: Name to contiguous tensor on the CPU.
            label: What it is for a reader.
            state_digest: Its state digest where that is known.

        Returns:
            Its state digest.

        Raises:
            BundleError: If it cannot be written.
        """
        from zoo.bundle.digest import state_digest as digest_tensors
        from zoo.bundle.tensors import pieces

        digest = state_digest or digest_tensors(tensors)
        try:
            if digest in self and self._fresh(digest):
                return digest
            blob, size = self._put_blob(pieces(tensors))
            content = {"format": "zoo.store", "state_digest": digest, "blob": blob, "size": size, "label": label[:500]}
            content |= {"tensors": len(tensors), "added": round(time.time(), 3)}
            _write(self._state(digest), json.dumps(content).encode("ascii"))
            if not self._blob(blob).exists():  # taken away as too old, just before its state was there again
                self._put_blob(pieces(tensors))
        except OSError as error:
            raise BundleError(f"The store {self.root} cannot be written: {error.strerror or error}.") from error
        return digest

    def get(self, state_digest: str) -> dict[str, Tensor]:
        """Map a set of tensors; the first time its file is read whole and its digest compared.

        Raises:
            BundleError: If it is not there, or its file is missing or damaged.
        """
        from zoo.bundle.reading import map_or_read

        stored = self.find(state_digest)
        path = self._blob(stored.blob)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise BundleError(f"{path} of the store cannot be read: {error.strerror}. {_RENEW}") from error
        try:
            found = os.fstat(fd)
            if recall(found) != stored.blob:
                if _digest(fd) != stored.blob:
                    raise BundleError(f"{path} of the store is damaged: its digest differs. {_RENEW}")
                remember(found, stored.blob)
            return map_or_read(fd, found.st_size, str(path))
        finally:
            os.close(fd)

    def find(self, state_digest: str) -> Stored:
        """Tell of one set of tensors.

        Raises:
            BundleError: If it is not there, or what the store knows of it is damaged.
        """
        path = self._state(state_digest)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BundleError(f"The store {self.root} has no tensors {state_digest}.") from error
        content = parse(data, str(path), most=_MOST)
        kinds: dict[str, Any] = {"blob": str, "size": int, "label": str, "tensors": int, "added": (int, float)}
        right = isinstance(content, dict) and content.get("state_digest") == state_digest
        if not right or not all(isinstance(content.get(key), kind) for key, kind in kinds.items()):
            raise BundleError(f"{path} of the store is damaged. {_RENEW}")
        if len(content["blob"]) != 64 or set(content["blob"]) - set("0123456789abcdef"):
            raise BundleError(f"{path} of the store is damaged: a digest is malformed. {_RENEW}")
        bundles = tuple(sorted(where for where, _ in self._bundles(state_digest) if where is not None))
        return Stored(state_digest=state_digest, bundles=bundles, **{key: content[key] for key in kinds})

    def refer(self, state_digest: str, bundle: Path) -> None:
        """Note that a bundle needs a set of tensors, before the bundle is published.

        Args:
            state_digest: The tensors.
            bundle: Its folder.

        Raises:
            BundleError: If it cannot be written.
        """
        where = os.path.abspath(bundle)
        content = json.dumps({"path": where, "at": round(time.time(), 3)}).encode("ascii")
        try:
            _write(self._uses(state_digest) / f"{digest_of(os.fsencode(where))[:32]}.json", content)
        except OSError as error:
            raise BundleError(f"The store {self.root} cannot be written: {error.strerror or error}.") from error

    def entries(self) -> list[Stored]:
        """Tell of all that is there and can be read, by label."""
        found = []
        for digest in self._digests():
            with contextlib.suppress(BundleError):
                found.append(self.find(digest))
        return sorted(found, key=lambda stored: (stored.label, stored.state_digest))

    def verify(self) -> Sequence[str]:
        """Read every file whole, and list what is wrong, one sentence each."""
        from zoo.bundle.digest import state_digest
        from zoo.bundle.reading import decode

        problems = []
        for digest in self._digests():
            try:
                stored = self.find(digest)
                data = self._blob(stored.blob).read_bytes()
                if digest_of(data) != stored.blob:
                    raise BundleError(f"{self._blob(stored.blob)} of the store is damaged. {_RENEW}")
                if state_digest(decode(data, str(self._blob(stored.blob)))) != digest:
                    raise BundleError(f"{self._state(digest)} of the store names another file's tensors. {_RENEW}")
            except BundleError as error:
                problems.append(str(error))
            except OSError as error:
                problems.append(f"{self._blob(stored.blob)} of the store cannot be read: {error.strerror}. {_RENEW}")
        return problems

    def collect(self, *, missing: bool = False, dry_run: bool = False) -> Collected:
        """Remove the tensors that no bundle needs.

        A bundle needs them while it is where it was saved and names them, and also while nothing is there: it may have
        been moved, or its disk may be away. What was added in the last hour stays.

        Args:
            missing: Whether bundles that are not where they were saved count as gone.
            dry_run: Whether to tell only.
        """
        gone, needed, sure = [], set(), True
        for digest in self._digests():
            try:
                stored = self.find(digest)
            except BundleError:
                sure = False
                continue
            users = [_needs(where, digest, missing=missing) for where, _ in self._bundles(digest)]
            if any(users) or not _is_old(self._state(digest)):
                needed.add(stored.blob)
            else:
                gone.append(digest)
        if not dry_run:
            for digest in gone:
                self._forget(digest)
        removed = size = 0
        for path in self._blobs() if sure else ():
            if path.parent.name + path.name not in needed and _is_old(path):
                with contextlib.suppress(OSError):
                    length = path.stat().st_size
                    if not dry_run:
                        path.unlink()
                    removed, size = removed + 1, size + length
        return Collected(states=tuple(gone), blobs=removed, bytes=size)

    # --- places

    def _state(self, digest: str) -> Path:
        if STATE.fullmatch(digest) is None:
            raise BundleError(f"A state digest looks like zsd1:blake3:<64 hex digits>, got {digest[:80]!r}.")
        return self.root / "states" / f"{digest.rpartition(':')[2]}.json"

    def _blob(self, blake3: str) -> Path:
        return self.root / "blobs" / blake3[:2] / blake3[2:]

    def _uses(self, digest: str) -> Path:
        return self.root / "bundles" / self._state(digest).stem

    def _digests(self) -> list[str]:
        names = sorted(path.stem for path in (self.root / "states").glob("*.json"))
        return [digest for name in names if STATE.fullmatch(digest := f"zsd1:blake3:{name}")]

    def _blobs(self) -> Iterator[Path]:
        return (self.root / "blobs").glob("[0-9a-f][0-9a-f]/*")

    def _bundles(self, digest: str) -> Iterator[tuple[str | None, Path]]:
        """Give where the bundles of a state are; None where that cannot be read."""
        for path in self._uses(digest).glob("*.json"):
            where = None
            with contextlib.suppress(OSError, BundleError):
                content = parse(path.read_bytes(), str(path), most=_MOST)
                where = content.get("path") if isinstance(content, dict) else None
            yield (where if isinstance(where, str) else None), path

    # --- writing

    def _put_blob(self, data: Sequence[memoryview]) -> tuple[str, int]:
        digest = hasher()
        for piece in data:
            digest.update(piece)
        blake3, size = digest.hexdigest(), sum(map(len, data))
        path = self._blob(blake3)
        if path.exists() and path.stat().st_size == size:
            os.utime(path)
        else:
            _write(path, *data, mode=0o444)
        return blake3, size

    def _fresh(self, digest: str) -> bool:
        """Make what is there young again, if it is whole."""
        with contextlib.suppress(OSError, BundleError):
            path = self._blob(self.find(digest).blob)
            os.utime(path)
            os.utime(self._state(digest))
            return path.exists()
        return False

    def _forget(self, digest: str) -> None:
        with contextlib.suppress(OSError):
            self._state(digest).unlink()
            for path in self._uses(digest).glob("*.json"):
                path.unlink()
            self._uses(digest).rmdir()


_RENEW = "See: zoo store verify; then add what is missing again: zoo store add."


def _home() -> Path:
    root = os.environ.get("ZOO_STORE")
    if root:
        return Path(root)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share", "zoo", "store")


def _write(path: Path, *data: bytes | memoryview, mode: int = 0o644) -> None:
    """Write a file whole, made to last, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            for piece in data:
                view = memoryview(piece)
                while view:
                    view = view[os.write(fd, view[:_CHUNK]) :]
            os.fchmod(fd, mode)
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.replace(path)
        fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _digest(fd: int) -> str:
    digest, at = hasher(), 0
    while chunk := os.pread(fd, _CHUNK, at):
        digest.update(chunk)
        at += len(chunk)
    return str(digest.hexdigest())


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > GRACE
    except OSError:
        return False


def _needs(where: str | None, digest: str, *, missing: bool) -> bool:
    """Say whether the bundle at a path may need the tensors; where that is not sure, it does."""
    if where is None:
        return True
    path = Path(where, MANIFEST)
    try:
        with path.open("rb") as file:
            manifest = read(file.read(MOST_BYTES + 1), str(path))
    except FileNotFoundError:
        return not missing
    except (OSError, BundleError):
        return True
    if not isinstance(manifest, Manifest):
        return True
    return any(base.state_digest == digest for base in manifest.bases.values())
