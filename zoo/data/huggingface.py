"""Hugging Face data sets, recognised only if their library is imported already."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from zoo.data.drafts import Draft
from zoo.data.grid import Grid, chosen_columns, encoded_sample, image_column, text_samples
from zoo.data.samples import DatasetSample, Sample
from zoo.data.splits import SPLITS, split_name
from zoo.data.table import Skipped
from zoo.data.wanted import Wanted
from zoo.errors import ConfigError, DataError

__all__ = ["is_huggingface", "read_huggingface"]


@dataclass(frozen=True, slots=True)
class _Part:
    """One data set of one or several, and what to call its rows."""

    dataset: Any
    split: str | None
    name: str


def is_huggingface(source: object) -> bool:
    """Say whether a source is a Hugging Face data set of any sort.

    Args:
        source: Anything.

    Returns:
        Whether it is; False without a look if nobody has imported ``datasets``.
    """
    library = sys.modules.get("datasets")
    if library is None:
        return False
    kinds = (library.Dataset, library.DatasetDict, library.IterableDataset, library.IterableDatasetDict)
    return isinstance(source, kinds)


def read_huggingface(source: Any, *, inputs: Wanted, labels: Sequence[str] | None, split: str | None) -> Draft:
    """Read a ``datasets.Dataset`` or ``DatasetDict``; its pictures stay where they are, encoded.

    Class labels become their names, and -1 is missing. The keys of a ``DatasetDict`` are the split.

    Args:
        source: The data set.
        inputs: The columns of pictures or their paths, of texts, and of masks; a picture column that is not named is
            the one whose feature is ``Image``.
        labels: The label columns; None takes all others that can be labels.
        split: The split column of a single data set; None takes one called "split" that holds names of parts.

    Returns:
        The rows, none opened.

    Raises:
        DataError: If the data set is streamed, its parts differ, or a column cannot be used.
        UnknownName: If a named column does not exist, or no picture column is found.
        ConfigError: If a split column is named although the keys are the split.
    """
    library = sys.modules["datasets"]
    if isinstance(source, (library.IterableDataset, library.IterableDatasetDict)):
        raise DataError(
            f"A Hugging Face data set must have a length, got a streamed {type(source).__name__}. "
            "Load it with streaming=False."
        )
    parts = _parts(source, split, library)
    grid = _grid(parts, _source(source), library)
    features = parts[0].dataset.features
    masks = {grid.require(name): _masks(parts, name, library) for name in inputs.masks}
    shown = {name: feature for name, feature in features.items() if name not in masks}
    pictures = {name: _image(grid, shown, column, library) for name, column in inputs.pictures.items()}
    texts = {name: grid.require(column) for name, column in inputs.texts.items()}
    columns, given = chosen_columns(
        grid, inputs={*pictures.values(), *texts.values()}, labels=labels, split=split, masks=inputs.masks
    )
    if parts[0].split is not None:
        given = tuple(part.split for part in parts for _ in range(len(part.dataset)))
    found: dict[str, Sequence[Sample | Skipped | None]] = {
        name: [sample for part in parts for sample in _samples(part, column, library)]
        for name, column in pictures.items()
    }
    if inputs.several:  # a row may lack one
        there = {name: [cell is not None for cell in _encoded(parts, pictures[name], library)] for name in found}
        found = {n: [s if ok else None for s, ok in zip(found[n], there[n], strict=True)] for n in found}
    found |= {name: text_samples(grid, column) for name, column in texts.items()}
    return Draft(grid.source, found, columns, split=given, masks=masks)


def _parts(source: Any, split: str | None, library: ModuleType) -> list[_Part]:
    """Give the data sets in a source, in the order train, validation, test."""
    name = _source(source)
    if not isinstance(source, library.DatasetDict):
        return [_Part(source.with_format(None), None, name)]
    if split is not None:
        raise ConfigError(f"The keys of a DatasetDict are its split, got split={split!r} as well. Leave split out.")
    if not source:
        raise DataError("A DatasetDict must hold one data set or more, got none.")
    strange = next((key for key in source if split_name(key) is None), None)
    if strange is not None:
        raise DataError(
            f"The keys of a DatasetDict must be {', '.join(SPLITS)}, got {strange!r}. "
            "Rename or remove it, or give one of its data sets alone."
        )
    parts = [_Part(source[key].with_format(None), split_name(key), f"{key} of {name}") for key in source]
    odd = next((part for part in parts if part.dataset.features != parts[0].dataset.features), None)
    if odd is not None:
        raise DataError(f"The parts of a DatasetDict must have equal features, got others in {odd.name}.")
    return sorted(parts, key=lambda part: SPLITS.index(part.split or "train"))


def _source(source: Any) -> str:
    """Name a source by its builder, if it was made by one."""
    first = next(iter(source.values()), None) if isinstance(source, Mapping) else source
    made = first.info.dataset_name if first is not None else None
    return f"{type(source).__name__} {made!r}" if made else type(source).__name__


def _grid(parts: Sequence[_Part], source: str, library: ModuleType) -> Grid:
    features = parts[0].dataset.features

    def place(row: int) -> str:
        for part in parts:
            if row < len(part.dataset):
                return f"row {row} of {part.name}"
            row -= len(part.dataset)
        return f"row {row} after the last"

    def cells(name: str) -> list[object]:
        decode = _decoder(features[name], library)
        return [decode(cell) for part in parts for cell in part.dataset.select_columns([name])[:][name]]

    usable = frozenset(name for name, feature in features.items() if _is_label(feature, library))
    return Grid(source, tuple(features), usable, cells=cells, place=place)


def _image(grid: Grid, features: Mapping[str, Any], image: str | None, library: ModuleType) -> str:
    """Find the picture column: the one named, else the only one of its feature, else one with a usual name."""
    found = [name for name, feature in features.items() if isinstance(feature, library.Image)]
    if image is not None or not found:
        return image_column(grid, image)
    if len(found) > 1:
        raise DataError(f"{grid.source} has {len(found)} picture columns: {', '.join(found)}. Name one with image='…'.")
    return found[0]


def _samples(part: _Part, image: str, library: ModuleType) -> list[DatasetSample]:
    dataset = part.dataset.select_columns([image])
    if isinstance(dataset.features[image], library.Image):
        dataset = dataset.cast_column(image, library.Image(decode=False))
    return [
        DatasetSample(name, dataset, row, partial(_pick, image, name))
        for row, name in ((row, f"row {row} of {part.name}") for row in range(len(dataset)))
    ]


def _encoded(parts: Sequence[_Part], image: str, library: ModuleType) -> Iterator[Any]:
    """Give the cells of a picture column without decoding them."""
    for part in parts:
        dataset = part.dataset.select_columns([image])
        if isinstance(dataset.features[image], library.Image):
            dataset = dataset.cast_column(image, library.Image(decode=False))
        yield from (row[image] for row in dataset)


def _masks(parts: Sequence[_Part], column: str, library: ModuleType) -> list[Sample | None]:
    """Give the masks of a column, encoded as they are; None for an empty cell."""
    samples = [sample for part in parts for sample in _samples(part, column, library)]
    cells = _encoded(parts, column, library)
    return [None if cell is None or cell == "" else sample for sample, cell in zip(samples, cells, strict=True)]


def _pick(image: str, name: str, row: Mapping[str, Any]) -> Sample:
    return encoded_sample(row[image], name, Path())


def _is_label(feature: Any, library: ModuleType) -> bool:
    """Say whether values of a feature can be labels."""
    if isinstance(feature, library.ClassLabel):
        return True
    item = _item(feature, library)
    if item is not None:
        return isinstance(item, library.ClassLabel) or (isinstance(item, library.Value) and _is_name(item.dtype))
    if not isinstance(feature, library.Value):
        return False
    return _is_name(feature.dtype) or feature.dtype in ("bool", "null") or feature.dtype.startswith("float")


def _is_name(dtype: str) -> bool:
    return dtype in ("string", "large_string") or dtype.startswith(("int", "uint"))


def _item(feature: Any, library: ModuleType) -> Any:
    """Give the feature of a list's items; None if the feature is no list."""
    if isinstance(feature, list):
        return feature[0]
    lists = [library.Sequence, library.LargeList, *([library.List] if "List" in vars(library) else [])]
    return feature.feature if type(feature) in lists else None


def _decoder(feature: Any, library: ModuleType) -> Any:
    """Give the function that turns a cell's class numbers into class names."""
    if isinstance(feature, library.ClassLabel):
        return partial(_class_name, feature.names)
    item = _item(feature, library)
    if isinstance(item, library.ClassLabel):
        return partial(_class_names, item.names)
    return _same


def _class_name(names: Sequence[str], cell: int | None) -> str | None:
    return None if cell is None or cell < 0 else names[cell]


def _class_names(names: Sequence[str], cell: Sequence[int] | None) -> list[str | None] | None:
    return None if cell is None else [_class_name(names, number) for number in cell]


def _same(cell: object) -> object:
    return cell
