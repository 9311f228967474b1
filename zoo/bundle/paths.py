"""Names of the files in a bundle, checked before any of them is opened."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from zoo.errors import BundleError

__all__ = [
    "DELTA",
    "MANIFEST",
    "METHODS",
    "NATIVE",
    "OWN",
    "SIGNATURE",
    "STACKS",
    "STATE_TENSORS",
    "STATE_TREE",
    "STATES",
    "bundle_path",
    "check_path",
    "check_paths",
    "is_hint",
]

MANIFEST = "zoo.json"
SIGNATURE = "model.sig"
"""A detached signature over all other files; the manifest does not list it."""
NATIVE = "model.safetensors"
"""A component's tensors, with the keys of the library's own module."""
DELTA = "delta.safetensors"
"""Of a backbone's tensors, those that differ from its base."""
OWN = "zoo.safetensors"
"""Tensors that a provider keeps beside the library's module; only where there are any."""
STACKS = "stacks.safetensors"
"""What an ensemble has learnt by stacking: for each task ``weight`` and ``bias``."""
STATE_TENSORS = "training/state.safetensors"
"""Of a checkpoint, the tensors of the run's state: optimizer, generators, best epoch, averaged weights."""
STATE_TREE = "training/state.json"
"""Of a checkpoint, the rest of the run's state, and where in it each tensor belongs."""
STATES = frozenset({STATE_TENSORS, STATE_TREE})
METHODS = "state"
"""The folder of what methods keep from one run to the next."""

MOST_FILES = 10_000
MOST_PATH = 200
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*", re.ASCII)
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE | re.ASCII)
_BESIDE_LETTERS = frozenset(" !#&'()+,-.=@_")
_UNSAFE = (".py", ".pyc", ".so", ".dll", ".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib")


def bundle_path(path: str | Path) -> Path:
    """Make the path of a bundle absolute.

    Raises:
        BundleError: If it is no path.
    """
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise BundleError(f"A bundle's path must be a str or a Path, got {path!r}.")
    return Path(os.path.abspath(text))


def check_path(path: str, where: str) -> str:
    """Refuse a path that could leave the folder, differ between systems, or hold code.

    Args:
        path: Relative, with ``/``.
        where: Who names it, for the message.

    Raises:
        BundleError: If it is no such path.

    Example:
        >>> check_path("heads/main/model.safetensors", "zoo.json")
        'heads/main/model.safetensors'
    """
    parts = path.split("/")
    usable = len(path) <= MOST_PATH and _PATH.fullmatch(path) is not None
    if not usable or any(_RESERVED.fullmatch(part) or part.endswith(".") for part in parts):
        raise BundleError(
            f"{where} names the file {path[:80]!r}; a bundle's files have relative paths of letters, digits, "
            "'.', '_' and '-', 200 characters at the most."
        )
    if path.lower().endswith(_UNSAFE):
        raise BundleError(f"{where} names the file {path!r}; a bundle holds no code and no pickle.")
    return path


def is_hint(path: str) -> bool:
    """Say whether a path to another bundle is relative and plain; only at its beginning it may have ``..``.

    Its names may have letters of any script, spaces, and a few other characters.

    Example:
        >>> is_hint("../other models/first"), is_hint("/etc"), is_hint("a/../../b"), is_hint("C:x")
        (True, False, False, False)
    """
    parts = path.split("/")
    while len(parts) > 1 and parts[0] == "..":
        parts.pop(0)
    return len(path) <= 4096 and unicodedata.is_normalized("NFC", path) and all(map(_is_plain, parts))


def _is_plain(part: str) -> bool:
    usual = 0 < len(part) <= 255 and all(letter.isalnum() or letter in _BESIDE_LETTERS for letter in part)
    return usual and part == part.strip(" ") and not part.endswith(".") and _RESERVED.fullmatch(part) is None


def check_paths(paths: Iterable[str], where: str) -> None:
    """Refuse paths of which one is unusable, or two are one on some systems.

    Raises:
        BundleError: If a path is unusable, two differ by case only, a file is also a folder, or there are too many.
    """
    listed = list(paths)
    if len(listed) > MOST_FILES:
        raise BundleError(f"{where} must name {MOST_FILES} files at the most, got {len(listed)}.")
    reserved = (MANIFEST, SIGNATURE)
    seen: dict[str, str] = {}
    for path in listed:
        folded = check_path(path, where).lower()
        if folded in seen or folded in reserved:
            raise BundleError(f"{where} names the files {seen.get(folded, folded)!r} and {path!r}, which may be one.")
        seen[folded] = path
    for folded, path in seen.items():
        folder = folded
        while folder := folder.rpartition("/")[0]:
            if folder in seen or folder in reserved:
                raise BundleError(
                    f"{where} names {seen.get(folder, folder)!r} as a file and, for {path!r}, as a folder."
                )
