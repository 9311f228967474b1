"""Catalog files: JSON, one architecture a line, so that a change of one is a change of one line."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zoo.contracts.catalog import Catalog, CatalogEntry
from zoo.errors import PluginError

__all__ = ["entry_as_json", "entry_from_json", "read", "write"]

_BLANK = CatalogEntry(name="")


def read(path: Path) -> Catalog:
    """Read a catalog file.

    Raises:
        PluginError: If it is not a catalog.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        entries = tuple(map(entry_from_json, data.pop("entries")))
        _check(data, _OF_CATALOG)
        return Catalog(**data, entries=entries)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise PluginError(f"The catalog {path.name!r} cannot be read: {error}.") from error


def write(catalog: Catalog, path: Path) -> None:
    """Write a catalog file, whole or not at all; several processes may do so at once.

    Raises:
        OSError: If it cannot be written.
    """
    head = {key: _plain(getattr(catalog, key)) for key in Catalog.__slots__ if key != "entries"}
    lines = [json.dumps(entry_as_json(entry), sort_keys=True) for entry in catalog.entries]
    body = "[\n  " + ",\n  ".join(lines) + "\n ]" if lines else "[]"
    text = json.dumps(head, sort_keys=True, indent=1)[:-2] + f',\n "entries": {body}\n}}\n'
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        temporary.write_text(text, encoding="ascii")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def entry_as_json(entry: CatalogEntry) -> dict[str, Any]:
    """Give an entry's fields as JSON values, those with their default left out."""
    fields = {key: getattr(entry, key) for key in CatalogEntry.__slots__}
    return {key: _plain(value) for key, value in fields.items() if value != getattr(_BLANK, key) or key == "name"}


def entry_from_json(data: Mapping[str, Any]) -> CatalogEntry:
    """Make an entry of JSON values.

    Raises:
        TypeError: If a field is not known, or its value has another type.
    """
    _check(data, _OF_ENTRY)
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
    return CatalogEntry(**fields)


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else value


# --- types, checked by hand: reading a catalog is what every `zoo list` waits for


def _text(value: object) -> bool:
    return type(value) is str


def _whole(value: object) -> bool:
    return value is None or type(value) is int


def _texts(value: object) -> bool:
    return type(value) is list and all(type(text) is str for text in value)


def _mapping(value: object) -> bool:
    return type(value) is dict and all(type(text) is str for text in value.values())


def _pair(value: object) -> bool:
    return type(value) is list and len(value) == 2 and all(type(side) is int for side in value)


_OF_ENTRY: dict[str, Callable[[Any], bool]] = {
    "name": _text,
    "tags": _texts,
    "licenses": _mapping,
    "modality": _text,
    "parameters": _whole,
    "pooled_dim": _whole,
    "size": lambda value: value is None or _pair(value),
    "capabilities": _texts,
    "requires": lambda value: value is None or _text(value),
}
_OF_CATALOG: dict[str, Callable[[Any], bool]] = {
    "library": _text,
    "version": _text,
    "aliases": _mapping,
    "renames": _mapping,
    "refused": _mapping,
    "open_names": lambda value: type(value) is bool,
}


def _check(data: Mapping[str, Any], types: Mapping[str, Callable[[Any], bool]]) -> None:
    for key, value in data.items():
        if key not in types:
            raise TypeError(f"{key!r} is not known")
        if not types[key](value):
            raise TypeError(f"{key!r} cannot be {value!r}")
