"""Names of the files in a bundle, checked before any of them is opened."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from zoo.errors import BundleError

__all__ = ["MANIFEST", "NATIVE", "OWN", "STACKS", "bundle_path", "check_path", "check_paths"]

MANIFEST = "zoo.json"
NATIVE = "model.safetensors"
"""A component's tensors, with the keys of the library's own module."""
OWN = "zoo.safetensors"
"""Tensors that a provider keeps beside the library's module; only where there are any."""
STACKS = "stacks.safetensors"
"""What an ensemble has learnt by stacking: for each task ``weight`` and ``bias``."""

MOST_FILES = 10_000
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*", re.ASCII)
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE | re.ASCII)
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
    usable = len(path) <= 200 and _PATH.fullmatch(path) is not None
    if not usable or any(_RESERVED.fullmatch(part) or part.endswith(".") for part in parts):
        raise BundleError(
            f"{where} names the file {path[:80]!r}; a bundle's files have relative paths of letters, digits, "
            "'.', '_' and '-', 200 characters at the most."
        )
    if path.lower().endswith(_UNSAFE):
        raise BundleError(f"{where} names the file {path!r}; a bundle holds no code and no pickle.")
    return path


def check_paths(paths: Iterable[str], where: str) -> None:
    """Refuse paths of which one is unusable, or two are one on some systems.

    Raises:
        BundleError: If a path is unusable, two differ by case only, a file is also a folder, or there are too many.
    """
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        folded = check_path(path, where).lower()
        if folded in seen or folded == MANIFEST:
            raise BundleError(f"{where} names the files {seen.get(folded, MANIFEST)!r} and {path!r}, which may be one.")
        seen[folded] = path
        steps = folded.split("/")
        folders |= {"/".join(steps[:i]): path for i in range(1, len(steps))}
    for folded in folders.keys() & seen.keys():
        raise BundleError(f"{where} names {seen[folded]!r} as a file and, for {folders[folded]!r}, as a folder.")
    if len(seen) > MOST_FILES:
        raise BundleError(f"{where} must name {MOST_FILES} files at the most, got {len(seen)}.")
