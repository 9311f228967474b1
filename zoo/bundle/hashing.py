"""The one digest of bundles: BLAKE3, 32 bytes as 64 hex digits.

On one core it is several times as fast as sha256 (3 to 5 against 0.5 to 1.4 GB/s on the processors that it was measured
on), so every byte can be checked at every load. It is a cryptographic digest: nobody can make another file with the
same one. Source: O'Connor, Aumasson, Neves and Wilcox-O'Hearn, "BLAKE3", 2020; the package ``blake3`` is its authors'.
"""

from __future__ import annotations

from typing import Any

from blake3 import blake3

__all__ = ["digest_of", "hasher"]


def hasher() -> Any:
    """Give a digest with ``update`` and ``hexdigest``, like those of ``hashlib``; it lets other threads run."""
    return blake3()


def digest_of(data: Any) -> str:
    """Give the digest of bytes, as 64 hex digits.

    Args:
        data: Bytes, or a contiguous buffer of them.

    Example:
        >>> digest_of(b"")[:16]
        'af1349b9f5f9a1a6'
    """
    return blake3(data).hexdigest()
