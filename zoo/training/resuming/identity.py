"""What identifies a run, so that it is never gone on with under other data, classes or settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

import zoo
from zoo.bundle.hashing import digest_of, hasher
from zoo.bundle.manifest import Training
from zoo.bundle.plain_json import canonical, plain
from zoo.data import DatasetSample, FileSample, Sample, Table
from zoo.errors import ConfigError
from zoo.model import Model
from zoo.strict import to_json
from zoo.training.judging.history import History
from zoo.training.ranks import world_size

__all__ = ["check_run", "identify", "rows_digest"]

_FREE = ("device", "workers")
"""Settings that may be others when a run goes on."""


def identify(
    model: Model, parts: Mapping[str, Table], columns: Mapping[str, str], history: History, resting: Mapping[str, str]
) -> dict[str, Any]:
    """Write down what identifies a run, as JSON.

    Args:
        model: The model.
        parts: The rows of each part.
        columns: Task name to label column.
        history: The run's, not yet trained.
        resting: Stream to the state digest of what never changes.
    """
    settings = {name: value for name, value in history.settings.items() if name not in _FREE}
    return {
        "method": history.method,
        "settings": plain(_written(settings), "settings"),
        "precision": history.precision,
        "heads": [head.flat() for head in model.spec.heads],
        "streams": {name: digest_of(canonical(to_json(entry))) for name, entry in model.spec.streams.items()},
        "resting": dict(resting),
        "rows": {part: len(table) for part, table in parts.items()},
        "columns": dict(columns),
        "data": {part: rows_digest(table, columns) for part, table in parts.items()},
        "world_size": world_size(),
        "versions": {"zoo": zoo.__version__, "torch": str(torch.__version__)},
    }


def _written(value: Any) -> Any:
    """Write paths and the like as text."""
    if isinstance(value, Mapping):
        return {str(key): _written(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_written(item) for item in value]
    if callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def rows_digest(table: Table, columns: Mapping[str, str]) -> str:
    """Digest the rows in their order: names and sizes of files, contents of what is in memory, and labels."""
    digest = hasher()
    held = [*table.inputs.values(), *(table.columns[name].values for name in sorted(set(columns.values())))]
    for row in zip(*held, strict=True):
        digest.update("\x1f".join(map(_cell, row)).encode("utf-8", "surrogatepass") + b"\n")
    return str(digest.hexdigest())


def _cell(value: Any) -> str:
    if isinstance(value, FileSample):
        try:
            return f"{value.path.name} {os.stat(value.path).st_size}"
        except OSError:
            return value.path.name
    if isinstance(value, DatasetSample):
        return value.name
    return value.digest() if isinstance(value, Sample) else repr(value)


def check_run(run: Mapping[str, Any]) -> Callable[[Path, Training], None]:
    """Give what refuses a checkpoint of another run than this; the first thing that differs is said.

    Args:
        run: As :func:`identify` gave it.
    """

    def check(path: Path, training: Training) -> None:
        before = training.run
        for key, tell in _TOLD.items():
            if (told := tell(before.get(key), run[key])) is not None:
                raise ConfigError(
                    f"{path} is of a run with {told}. Resume with what that run had, or begin a new one in another "
                    "folder; the checkpoint stays as it is."
                )

    return check


def _plainly(what: str) -> Callable[[Any, Any], str | None]:
    def tell(before: Any, now: Any) -> str | None:
        return None if before == now else f"{what} {_short(before)}, and this one has {_short(now)}"

    return tell


def _by_key(what: str) -> Callable[[Any, Any], str | None]:
    def tell(before: Any, now: Any) -> str | None:
        old, new = dict(before or {}), dict(now)
        for key in [*old, *(key for key in new if key not in old)]:
            if old.get(key) != new.get(key):
                return f"{what}{key} {_short(old.get(key))}, and this one has {_short(new.get(key))}"
        return None

    return tell


def _heads(before: Any, now: Any) -> str | None:
    old, new = ({str(head.get("name")): head for head in heads or []} for heads in (before, now))
    if list(old) != list(new):
        return f"the heads {', '.join(old)}, and this one has {', '.join(new)}"
    for name, head in old.items():
        if (told := _by_key(f"the head {name!r} of ")(head, new[name])) is not None:
            return told
    return None


def _rows(before: Any, now: Any) -> str | None:
    for part in now:
        if (before or {}).get(part) != now[part]:
            return f"other {part} rows (files, labels, order or split), though as many"
    return None


def _weights(before: Any, now: Any) -> str | None:
    for stream in now:
        if (before or {}).get(stream) != now[stream]:
            return f"other frozen weights in the stream {stream!r}"
    return None if set(before or {}) == set(now) else "other streams that stay frozen"


def _streams(before: Any, now: Any) -> str | None:
    old = dict(before or {})
    if list(sorted(old)) != list(sorted(now)):
        return f"the streams {', '.join(sorted(old))}, and this one has {', '.join(sorted(now))}"
    other = [stream for stream in now if old[stream] != now[stream]]
    return f"another backbone in the stream {other[0]!r}" if other else None


_TOLD: dict[str, Callable[[Any, Any], str | None]] = {
    "method": _plainly("the method"),
    "heads": _heads,
    "streams": _streams,
    "rows": _by_key("rows in "),
    "columns": _by_key("the label column of "),
    "data": _rows,
    "settings": _by_key(""),
    "precision": _plainly("the precision"),
    "world_size": _plainly("the number of processes"),
    "resting": _weights,
}


def _short(value: Any) -> str:
    text = str(value) if isinstance(value, str) else "none" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
