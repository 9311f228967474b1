"""Pictures for ``zoo predict``: found, opened and predicted, a batch at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.data import FileSample, PictureSample, UnreadableSample
from zoo.data.pictures import SUFFIXES
from zoo.errors import DataError, ShapeError

if TYPE_CHECKING:
    import torch

    from zoo.ensembling.ensemble import Ensemble
    from zoo.model import Model

__all__ = ["Predicted", "find_pictures", "predict_all", "predict_rows"]


@dataclass(frozen=True, slots=True)
class Predicted:
    """One picture and what the model says of it.

    Args:
        path: The picture; of a row with several inputs, its first.
        predictions: Task name to prediction, as JSON.
        reason: Why it could not be predicted; None if it could.
    """

    path: Path
    predictions: dict[str, dict[str, Any]] = field(default_factory=dict)
    reason: str | None = None


def find_pictures(given: Sequence[Path]) -> list[Path]:
    """List pictures: files as they are given, folders walked in the order of names, hidden ones left out.

    Raises:
        DataError: If a path does not exist, or a folder has no picture.
    """
    found: dict[Path, None] = {}
    for path in given:
        if path.is_dir():
            inside = list(_walk(path))
            if not inside:
                raise DataError(f"The folder '{path}' has no pictures ({', '.join(SUFFIXES)}).")
            found.update(dict.fromkeys(inside))
        elif path.exists():
            found[path] = None
        else:
            raise DataError(f"There is no file or folder '{path}'.")
    return list(found)


def _walk(folder: Path) -> Iterator[Path]:
    for path, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                yield Path(path, name)


def predict_all(
    model: Model | Ensemble, paths: Sequence[Path], *, batch_size: int, device: torch.device
) -> Iterator[Predicted]:
    """Predict pictures in their order; one that cannot be read gives its reason.

    Args:
        model: The model.
        paths: The pictures.
        batch_size: Pictures that are open at a time.
        device: Where to run.
    """
    left = iter(paths)
    with ThreadPoolExecutor(max_workers=4) as pool:
        while batch := list(islice(left, batch_size)):
            opened = list(pool.map(_open, batch))
            good = [one for one in opened if isinstance(one, PictureSample)]
            predicted = iter(_predict(model, good, device))
            for path, one in zip(batch, opened, strict=True):
                yield next(predicted) if isinstance(one, PictureSample) else Predicted(path, reason=one)


def predict_rows(
    model: Model | Ensemble, paths: Sequence[Path], *, batch_size: int, device: torch.device
) -> Iterator[Predicted]:
    """Predict the rows of a table, for a model with several inputs or a text; unreadable rows come last.

    Raises:
        DataError: If there is another number of tables than one.
    """
    from zoo.data import read
    from zoo.data.tabular import TABLE_SUFFIXES
    from zoo.training.rows.tables import input_columns

    names = ", ".join(model.modalities)
    if len(paths) != 1 or paths[0].suffix.lower() not in TABLE_SUFFIXES:
        raise DataError(f"The model takes {names}; give one {', '.join(TABLE_SUFFIXES)} file with a column for each.")
    table = read(paths[0], labels=[], **input_columns(model.modalities))
    rows = [dict(zip(table.inputs, row, strict=True)) for row in zip(*table.inputs.values(), strict=True)]
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        found = model.predict(part, batch_size=batch_size, device=device)
        for row, predictions in zip(part, found, strict=True):
            name = next((sample.name for sample in row.values() if sample is not None), "an empty row")
            yield Predicted(Path(name), {task: dict(decoded.as_json()) for task, decoded in predictions.items()})
    for skipped in table.skipped:
        yield Predicted(Path(skipped.name), reason=skipped.reason)


def _open(path: Path) -> PictureSample | str:
    """Decode a picture, or say in a phrase why it cannot be."""
    try:
        return PictureSample(str(path), FileSample(path).open())
    except UnreadableSample as error:
        return error.reason


def _predict(model: Model | Ensemble, samples: Sequence[PictureSample], device: torch.device) -> list[Predicted]:
    """Predict a batch; if one picture spoils it, each alone."""
    if not samples:
        return []
    try:
        rows = model.predict(list(samples), batch_size=len(samples), device=device)
    except (DataError, ShapeError) as error:
        if len(samples) == 1:
            return [Predicted(Path(samples[0].name), reason=str(error))]
        return [row for sample in samples for row in _predict(model, [sample], device)]
    return [
        Predicted(Path(sample.name), {task: dict(decoded.as_json()) for task, decoded in row.items()})
        for sample, row in zip(samples, rows, strict=True)
    ]
