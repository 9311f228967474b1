"""Keys in PEM files: elliptic curves P-256, P-384 and P-521, which are what sigstore's bundles know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.errors import ConfigError

__all__ = ["private_key", "public_key"]

CURVES = ("secp256r1", "secp384r1", "secp521r1")
_MOST_BYTES = 2**16
_MAKE = "make one with: openssl ecparam -name prime256v1 -genkey -noout -out private.pem"
_PUBLIC = "openssl ec -in private.pem -pubout -out public.pem"


def private_key(path: str | Path) -> Path:
    """Check a file with a private key.

    Args:
        path: A PEM file, without a passphrase.

    Returns:
        The path.

    Raises:
        ConfigError: If it cannot be read, or is no key that can sign.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read(path)
    if b"PRIVATE KEY" not in data:
        raise ConfigError(f"{path} holds no private key in PEM form; {_MAKE}.")
    try:
        key = load_pem_private_key(data, None)
    except TypeError as error:
        raise ConfigError(
            f"The key in {path} is locked with a passphrase; unlock a copy: openssl ec -in {path} -out unlocked.pem"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} holds no private key that can be read; {_MAKE}.") from error
    _check_curve(key, path)
    return Path(path)


def public_key(path: str | Path) -> Path:
    """Check a file with a public key.

    Args:
        path: A PEM file.

    Returns:
        The path.

    Raises:
        ConfigError: If it cannot be read, or is no key by which a signature can be checked.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data = _read(path)
    if b"PRIVATE KEY" in data:
        raise ConfigError(f"{path} holds a private key; a signature is checked with the public one: {_PUBLIC}")
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} holds no public key in PEM form; write it with: {_PUBLIC}") from error
    _check_curve(key, path)
    return Path(path)


def _read(path: str | Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MOST_BYTES)
    except (OSError, TypeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no path"
        raise ConfigError(f"The key {path!s} cannot be read: {reason}.") from error


def _check_curve(key: Any, path: str | Path) -> None:
    curve = getattr(getattr(key, "curve", None), "name", None)
    if curve not in CURVES:
        raise ConfigError(f"{path} must hold a key on one of the curves {', '.join(CURVES)}; {_MAKE}.")
