"""A folder of class folders, with or without split folders around them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from zoo.data.columns import Column
from zoo.data.drafts import Draft
from zoo.data.pictures import SUFFIXES
from zoo.data.samples import FileSample
from zoo.data.splits import split_name
from zoo.data.table import Skipped
from zoo.errors import DataError

__all__ = ["read_folder"]


def read_folder(root: Path) -> Draft:
    """Read ``root/<class>/**/*.jpg`` or ``root/<split>/<class>/**/*.jpg``.

    Classes and files are sorted by name. Hidden files and folders are left out, and so are files of other types. If
    there are pictures and no folders of pictures, the result has no columns; pictures beside class folders are listed
    as skipped.

    Args:
        root: The folder.

    Returns:
        The pictures with the column "label".

    Raises:
        DataError: If the folder is empty or has no pictures, a class folder has none, or a split folder has no class
            folders.
    """
    folders = _folders(root)
    loose = [path for path in _files(root) if _is_picture(path)]
    if not folders and not loose:
        raise DataError(_nothing(root))
    if folders and all(split_name(folder.name) for folder in folders):
        return _with_splits(root, folders, loose)
    found = {folder: _pictures(folder) for folder in folders}
    if not any(found.values()):
        if not loose:
            raise DataError(_nothing(root))
        return Draft(str(root), {"image": [FileSample(path) for path in loose]}, {})
    return _draft(root, [(folder, None) for folder in folders], loose)


def _with_splits(root: Path, folders: Sequence[Path], loose: Sequence[Path]) -> Draft:
    """Read the class folders of each split folder."""
    classes = []
    for folder in folders:
        inside = _folders(folder)
        direct = [path for path in _files(folder) if _is_picture(path)]
        if not inside:
            held = f"{len(direct)} pictures and no folders" if direct else "nothing to read"
            raise DataError(
                f"Split folder '{folder}' must hold class folders, got {held}. "
                "Put its pictures into a folder a class, or give a table with a split column."
            )
        loose = [*loose, *direct]
        classes += [(path, split_name(folder.name)) for path in inside]
    return _draft(root, classes, loose)


def _draft(root: Path, folders: Sequence[tuple[Path, str | None]], loose: Sequence[Path]) -> Draft:
    """Put class folders together, each with the part it belongs to."""
    samples: list[FileSample] = []
    labels: list[str] = []
    parts: list[str | None] = []
    for folder, part in folders:
        pictures = _pictures(folder)
        if not pictures:
            raise DataError(
                f"Class folder '{folder}' must have one readable picture or more, got none. "
                f"Add some ({_accepted()}) or remove the folder."
            )
        samples += [FileSample(path) for path in pictures]
        labels += [folder.name] * len(pictures)
        parts += [part] * len(pictures)
    return Draft(
        str(root),
        {"image": samples},
        {"label": Column("label", "text", tuple(labels))},
        split=tuple(parts) if any(parts) else None,
        stray=tuple(Skipped(str(path), "outside any class folder") for path in loose),
        classes={folder.name: str(folder) for folder, _ in reversed(folders)},
    )


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in _visible(folder) if path.is_dir())


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in _visible(folder) if not path.is_dir())


def _visible(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if not path.name.startswith("."))


def _pictures(folder: Path) -> list[Path]:
    return [path for path in _walk(folder) if _is_picture(path)]


def _walk(folder: Path) -> Iterator[Path]:
    """Give every visible file under a folder, sorted folder by folder."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _nothing(root: Path) -> str:
    """Say what a folder without pictures holds."""
    suffixes = sorted({path.suffix.lower() or path.name for path in _walk(root)})
    held = f"files of other types only ({', '.join(suffixes[:8])})" if suffixes else "nothing"
    return f"Folder '{root}' must hold pictures ({_accepted()}), or a folder of them a class, got {held}."


def _accepted() -> str:
    return ", ".join(suffix[1:] for suffix in SUFFIXES)
