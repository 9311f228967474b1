"""The address of a bundle: what is a URL, what of it may be shown, and how a repository of the hub is named."""

from __future__ import annotations

import hashlib
import os
import re
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from zoo.errors import BundleError

__all__ = ["Address", "Repository", "at_home", "elsewhere", "is_url", "shown"]

HUB = "hf"
WEB = ("http", "https")
LOCAL = ("file", "local")

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.ASCII | re.DOTALL)
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]*", re.ASCII)


def is_url(path: object) -> bool:
    r"""Say whether a path is a URL: text that begins with ``scheme://``. Every other text is a path on this machine.

    Example:
        >>> [is_url(path) for path in ("s3://bucket/pets", "hf://me/pets", "pets", "C:\\pets", "hf:resnet")]
        [True, True, False, False, False]
    """
    return isinstance(path, str) and _URL.match(path) is not None


def shown(path: str | Path) -> str:
    """Give a path or URL as it may be printed: of a URL without user, password and query.

    Example:
        >>> shown("https://me:secret@example.org/pets?token=123")
        'https://example.org/pets'
    """
    found = _URL.match(path) if isinstance(path, str) else None
    if found is None:
        return str(path)
    scheme, rest = found[1].lower(), re.split(r"[?#]", found[2], maxsplit=1)[0]
    host, slash, below = rest.partition("/")
    if scheme != HUB:
        if "@" in host:
            host = host.rpartition("@")[2]
        elif "@" in below and ":" in host and not host.rpartition(":")[2].isdigit():  # a password with a slash in it
            host, slash, below = below.rpartition("@")[2].partition("/")
    return f"{scheme}://{host}{slash}{below}".rstrip("/")


@dataclass(frozen=True, slots=True)
class Address:
    """The URL of a bundle.

    Args:
        url: As it was given, without a slash at its end; it may hold a password, so it is printed nowhere.
        scheme: Its scheme, in lower case.
        shown: What of it may be printed.
    """

    url: str = field(repr=False)
    scheme: str
    shown: str

    @classmethod
    def of(cls, url: str) -> Self:
        """Read a URL.

        Raises:
            BundleError: If there is nothing behind the scheme, or characters that no URL has.
        """
        found = _URL.match(url)
        if found is None or not found[2].strip("/") or any(letter <= " " or letter == "\x7f" for letter in url):
            raise BundleError(f"A bundle's URL must be like s3://bucket/pets, without spaces, got {shown(url)!r}.")
        return cls(url.rstrip("/"), found[1].lower(), shown(url))

    @property
    def key(self) -> str:
        """What an earlier download from here is found by; it tells nothing of a password."""
        return hashlib.sha256(self.shown.encode("utf-8", "backslashreplace")).hexdigest()

    def secrets(self) -> tuple[str, ...]:
        """List the pieces of the URL that are not shown, which no message may repeat."""
        pieces = re.split(r"[/:@?#&=]+", urllib.parse.unquote(self.url)) + re.split(r"[/:@?#&=]+", self.url)
        known = set(re.split(r"[/:]+", self.shown))
        return tuple(sorted({piece for piece in pieces if piece and piece not in known}, key=len, reverse=True))


def elsewhere(path: object) -> Address | None:
    """Give the address that a path means; None if it is on this machine, as ``file://`` URLs are.

    Raises:
        BundleError: If it is a URL that cannot be used.
    """
    if not isinstance(path, str) or not is_url(path):
        return None
    address = Address.of(path)
    return None if address.scheme in LOCAL else address


def at_home(path: str | Path) -> str | Path:
    """Give the path on this machine that a ``file://`` URL means; every other path as it is.

    Raises:
        BundleError: If it is one of another machine.
    """
    if not isinstance(path, str) or not is_url(path):
        return path
    host, slash, below = path.partition("://")[2].partition("/")
    if host not in ("", "localhost") or not slash:
        raise BundleError(f"{shown(path)} must be a path from the root of this machine, like file:///data/pets.")
    return os.path.abspath("/" + urllib.parse.unquote(below))


@dataclass(frozen=True, slots=True)
class Repository:
    """A folder of a model repository on the hub.

    Args:
        name: ``user/name``.
        folder: The folder in it, without a slash at its end; empty for its root.
        revision: A branch, tag or commit; None for the main branch.
    """

    name: str
    folder: str = ""
    revision: str | None = None

    @classmethod
    def of(cls, address: Address) -> Self:
        """Read ``hf://user/name``, ``hf://user/name/sub/folder`` and either with ``@revision``.

        Raises:
            BundleError: If it has another form, or is no repository of a model.
        """
        place, at, revision = address.url.partition("://")[2].partition("@")
        parts = place.strip("/").split("/")
        good = len(parts) >= 2 and all(_PART.fullmatch(part) for part in parts)
        if not good or parts[0] in ("datasets", "spaces", "models", "buckets"):
            raise BundleError(
                f"{address.shown} must be hf://user/name, hf://user/name/folder or hf://user/name@revision, of a model."
            )
        if at and (not _REVISION.fullmatch(revision) or ".." in revision):
            raise BundleError(f"{address.shown} must end with a branch, a tag or a commit after the @.")
        return cls("/".join(parts[:2]), "/".join(parts[2:]), revision or None)

    def path(self, name: str) -> str:
        """Give the path in the repository of a file of the bundle."""
        return f"{self.folder}/{name}" if self.folder else name
