"""A run's history as files: one JSON object a line, a table, and a picture."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ConfigError, PluginError

if TYPE_CHECKING:
    from zoo.training.judging.history import EpochRow

__all__ = ["CSV", "JSONL", "draw", "write_records"]

JSONL = "history.jsonl"
CSV = "history.csv"


def write_records(folder: Path, epochs: Sequence[EpochRow]) -> None:
    """Write what is known of the epochs, each file at once or not at all.

    Args:
        folder: The run's folder, which is there.
        epochs: One row an epoch.

    Raises:
        OSError: If the system refuses.
    """
    rows = [_flat(row) for row in epochs]
    lines = "".join(json.dumps(_plain(asdict(row)), allow_nan=False) + "\n" for row in epochs)
    _replace(folder / JSONL, lines)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _replace(folder / CSV, text.getvalue())


def _flat(row: EpochRow) -> dict[str, Any]:
    told = asdict(row)
    metrics, measures = told.pop("validation"), told.pop("measures")
    told |= {f"{task}/{name}": value for task, found in metrics.items() for name, value in found.items()}
    return told | measures


def _plain(value: Any) -> Any:
    """Turn numbers that are not finite into null."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def draw(epochs: Sequence[EpochRow], path: str | Path, *, best: int) -> Path:
    """Draw the losses and metrics over the epochs.

    Args:
        epochs: One row an epoch.
        path: The picture; its ending says which kind, such as ``.png`` or ``.svg``.
        best: The best epoch, which is marked; 0 for none.

    Returns:
        The path.

    Raises:
        PluginError: If matplotlib is not installed.
        ConfigError: If there is no epoch, or the picture cannot be written like that.
    """
    if not epochs:
        raise ConfigError("There is no epoch to draw.")
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise PluginError("A training curve needs matplotlib: pip install 'headzoo[plot]'.") from error
    rows = [_flat(row) for row in epochs]
    tasks = sorted({name.partition("/")[0] for row in rows for name in row if "/" in name})
    figure = Figure(figsize=(7, 3 * (1 + len(tasks))), layout="constrained")
    panels = figure.subplots(1 + len(tasks), 1, sharex=True, squeeze=False)[:, 0]
    shown = [("loss", ["train_loss", "validation_loss"])]
    shown += [(task, sorted({n for row in rows for n in row if n.startswith(f"{task}/")})) for task in tasks]
    for panel, (title, names) in zip(panels, shown, strict=True):
        for name in names:
            points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
            if points:
                panel.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name.partition("/")[2] or name)
        if best:
            panel.axvline(best, color="grey", linewidth=0.8, linestyle="--")
        panel.set_ylabel(title)
        panel.legend(fontsize="small")
    panels[-1].set_xlabel("epoch")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"The training curve cannot be written to {path}: {error}.") from error
    return Path(path)
