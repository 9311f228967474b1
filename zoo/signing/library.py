"""The calls of the model-signing library.

Files of git are not ignored, neither at signing nor at checking: the library's default is to ignore them, and then
whatever is put under ``.git`` passes. Unsigned files are never ignored.

Source: OpenSSF model signing, https://github.com/sigstore/model-transparency, by its Python interface.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import BundleError, ConfigError, PluginError
from zoo.signing.keys import public_key

__all__ = ["Trust", "check_folder", "need_library", "sign_folder"]


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose signature is wanted: that of a key, or of an identity.

    Args:
        key: File of the public key.
        identity: The signer's e-mail address or URL, for a signature without a key.
        issuer: Who vouches for the identity, a URL.
    """

    key: Path | None = None
    identity: str = ""
    issuer: str = ""

    @classmethod
    def of(cls, key: str | Path | None, identity: str | None, issuer: str | None) -> Trust | None:
        """Read what a user asks for; None if no signature is asked for.

        Raises:
            ConfigError: If it is neither a key nor an identity with its issuer, or the key cannot be used.
            PluginError: If the library is not installed.
        """
        if key is None and identity is None and issuer is None:
            return None
        if key is not None and (identity is not None or issuer is not None):
            raise ConfigError("A signature is checked by a key or by an identity with its issuer; give one of them.")
        if key is None and not (identity and issuer):
            raise ConfigError("An identity counts with who vouches for it; give both identity and issuer.")
        need_library()
        return cls(None if key is None else public_key(key), identity or "", issuer or "")

    def __str__(self) -> str:
        return f"the key {self.key}" if self.key is not None else f"{self.identity} by {self.issuer}"


def need_library() -> None:
    """Refuse to go on without the extra.

    Raises:
        PluginError: If it is not installed; the message has the command.
    """
    with _quiet():
        try:
            import model_signing.signing
            import model_signing.verifying  # noqa: F401
        except ImportError as error:
            raise PluginError(f"Signatures need {error.name}: pip install 'headzoo[signing]'.") from error


def sign_folder(folder: Path, signature: Path, key: Path | None, *, leave_out: str) -> None:
    """Sign all files of a folder.

    Args:
        folder: The folder.
        signature: The file to write.
        key: File of the private key; None for sigstore, where the signer proves an identity in the browser or by what
            the machine it runs on vouches for, which needs the network and is published.
        leave_out: The file in the folder that a signature is in.

    Raises:
        BundleError: If it cannot be signed.
    """
    from model_signing import signing

    with _quiet():
        try:
            config = signing.Config().set_hashing_config(_all_files(leave_out))
            if key is None:
                config.use_sigstore_signer(use_ambient_credentials=True)
            else:
                config.use_elliptic_key_signer(private_key=key)
            config.sign(folder, signature)
        except Exception as error:  # the library, sigstore and the network below have no common type
            raise BundleError(f"{folder} cannot be signed: {_told(error)}.") from error


def check_folder(folder: Path, signature: Path, trust: Trust, *, leave_out: str) -> None:
    """Check a signature over all files of a folder.

    Args:
        folder: The folder.
        signature: The file with the signature.
        trust: Whose it must be.
        leave_out: The file in the folder that a signature is in.

    Raises:
        BundleError: If it is another's, or over other bytes or other files.
    """
    from model_signing import verifying

    with _quiet():
        try:
            config = verifying.Config().set_hashing_config(_all_files(leave_out))
            if trust.key is not None:
                config.use_elliptic_key_verifier(public_key=trust.key)
            else:
                config.use_sigstore_verifier(identity=trust.identity, oidc_issuer=trust.issuer)
            config.verify(folder, signature)
        except Exception as error:  # as above
            if str(error).startswith("Signature mismatch"):
                raise BundleError(f"{folder} is not what was signed: files changed, came or went since.") from error
            raise BundleError(f"{folder} has no signature of {trust} that holds: {_told(error)}.") from error


def _all_files(leave_out: str) -> Any:
    """Count every file of a folder, but for the signature, by sha256."""
    from model_signing import hashing

    config = hashing.Config().use_file_serialization(hashing_algorithm="sha256", allow_symlinks=False)
    return config.set_ignored_paths(paths=[leave_out], ignore_git_paths=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the warnings of the libraries below about themselves to themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _told(error: Exception) -> str:
    """Say in part of one line what a library raised."""
    lines = str(error).strip().splitlines()
    text = lines[0].strip().rstrip(".") if lines else ""
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
