"""Signing a bundle, and checking that a signature covers the very files that were verified.

The signature is a file beside the manifest, which does not list it; it holds for one generation, so a save that
replaces a bundle drops it.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from zoo.bundle.folder import BundleFolder
from zoo.bundle.paths import MANIFEST, SIGNATURE, bundle_path
from zoo.bundle.publishing import held, new_name, remove, sweep
from zoo.errors import BundleError, ConfigError
from zoo.signing import (
    Trust,
    check_folder,
    need_library,
    private_key,
    read_statement,
    sign_folder,
)

__all__ = ["fault_of_signature", "sign"]

_MOST_BYTES = 2**24


def sign(path: str | Path, *, key: str | Path | None = None, keyless: bool = False) -> Path:
    """Sign a bundle; the signature is in its ``model.sig``, and replaces one that is there.

    The bundle is verified first. Needs the extra ``signing``.

    Args:
        path: The bundle's folder.
        key: PEM file of a private key on the curve P-256, P-384 or P-521.
        keyless: Whether to sign without a key: sigstore's public service vouches for an identity, which is proven in
            the browser or by the machine that this runs on; it needs the network, and the identity is published.

    Returns:
        The file of the signature.

    Raises:
        ConfigError: If neither or both are given, or the key cannot be used.
        BundleError: If the bundle is not well, is replaced meanwhile, or cannot be signed or written.
        PluginError: If the extra is not installed.
    """
    from zoo.bundle.verifying import verify

    if (key is None) is not keyless:
        raise ConfigError("A bundle is signed with a key or keyless; give key, or keyless=True.")
    need_library()
    checked = None if key is None else private_key(key)
    folder = bundle_path(path)
    report = verify(folder)
    if not report.ok:
        raise BundleError(f"{folder} is not signed, because it is not well: {report.problems[0]}")
    assert report.id is not None
    sweep(folder)
    beside = new_name(folder, "tmp")
    try:
        beside.mkdir()
        with held(beside):
            signature = beside / SIGNATURE
            sign_folder(folder, signature, checked, leave_out=SIGNATURE)
            _put(folder, signature, report.id)
    except OSError as error:
        raise BundleError(f"{folder} cannot be signed: {error.strerror or error}. Nothing was changed.") from error
    finally:
        remove(beside)
    return folder / SIGNATURE


def _put(folder: Path, signature: Path, identity: str) -> None:
    """Put a signature into the generation that it is of, at one instant, to last."""
    data = signature.read_bytes()
    file = os.open(signature, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with BundleFolder(folder, fd) as opened:
        _check_coverage(opened, fd, data, identity)
        os.replace(signature, SIGNATURE, dst_dir_fd=fd)
        os.fsync(fd)


def fault_of_signature(folder: Path, identity: str, trust: Trust) -> str | None:
    """Say what is wrong with the signature of a bundle that was found well.

    Args:
        folder: The bundle's folder.
        identity: The id that was found.
        trust: Whose signature is wanted.

    Returns:
        A sentence; None if the signature is right and covers every file of that bundle.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with BundleFolder(folder, fd) as opened, tempfile.TemporaryDirectory() as place:
            data = _read(fd, SIGNATURE)
            if data is None:
                return f"{folder} is not signed: it has no {SIGNATURE}."
            copy = Path(place, SIGNATURE)  # what is checked and what is read of it are the same bytes
            copy.write_bytes(data)
            check_folder(folder, copy, trust, leave_out=SIGNATURE)
            _check_coverage(opened, fd, data, identity)
    except OSError as error:
        return f"The signature of {folder} cannot be checked: {error.strerror or error}."
    except BundleError as error:
        return str(error)
    return None


def _check_coverage(opened: BundleFolder, fd: int, data: bytes, identity: str) -> None:
    """Refuse a signature that leaves a file out, or is of another generation than the one that was verified.

    The manifest, whose digest is signed, has the digest of every other file, and all were compared with it.

    Raises:
        BundleError: If it is such a signature.
    """
    where = f"{opened.path}/{SIGNATURE}"
    told = read_statement(data, where)
    if (told.method, told.algorithm) != ("files", "sha256"):
        raise BundleError(
            f"{where} tells {told.method} by {told.algorithm}, and files by sha256 are needed; sign it with zoo sign."
        )
    left_out = sorted(set(opened.listing()) - {SIGNATURE} - told.digests.keys())
    if left_out:
        raise BundleError(f"{where} does not cover {left_out[0][:200]!r}; sign the bundle again.")
    manifest = _read(fd, MANIFEST)
    found = opened.manifest()[1]
    if manifest is None or hashlib.sha256(manifest).hexdigest() != told.digests[MANIFEST] or found != identity:
        raise BundleError(f"{opened.path} was replaced meanwhile; try again.")


def _read(fd: int, name: str) -> bytes | None:
    """Read a file of an open folder, following no link; None if there is none."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
    except FileNotFoundError:
        return None
    with os.fdopen(file, "rb") as opened:
        return opened.read(_MOST_BYTES)
