"""Any torch ``Dataset`` with a length."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from zoo.data.drafts import Draft
from zoo.data.grid import Grid, chosen_columns
from zoo.data.pictures import unreadable, upright
from zoo.data.samples import DatasetSample
from zoo.data.table import Skipped, unknown_column
from zoo.errors import DataError, ShapeError

__all__ = ["is_torch_dataset", "read_torch_dataset"]

_INPUT_NAMES = ("image", "input")


def is_torch_dataset(source: object) -> bool:
    """Say whether a source is a torch ``Dataset``.

    Args:
        source: Anything.

    Returns:
        Whether it is; False without a look if nobody has imported torch.
    """
    data = sys.modules.get("torch.utils.data")
    return data is not None and isinstance(source, data.Dataset)


def read_torch_dataset(source: Any, *, image: str | None, labels: Sequence[str] | None, split: str | None) -> Draft:
    """Read a torch ``Dataset`` whose items are ``(input, target)``, a mapping, or an input alone.

    An input is a PIL picture or a tensor. A target is a text, a number, a boolean, a list of texts, None, or a mapping
    of these; a target that is no mapping becomes the column "label". If the data set has ``classes``, as torchvision's
    do, integers in "label" become their names. Targets can be had only with their items, so this opens each item once.

    Args:
        source: The data set.
        image: The input's key in items that are mappings; None takes "image" or "input".
        labels: The label columns; None takes all others.
        split: The split column; None takes one called "split" that holds names of parts.

    Returns:
        The rows; an item that cannot be opened has its reason.

    Raises:
        DataError: If the data set has no length, or an item or target is of another sort.
        ShapeError: If a tensor is not of rank 3.
        UnknownName: If a named column does not exist.
    """
    name = type(source).__name__
    if isinstance(source, sys.modules["torch.utils.data"].IterableDataset) or not callable(
        getattr(source, "__len__", None)
    ):
        raise DataError(
            f"A torch data set must have a length and be indexed by row, got {name}. Wrap it in one that is."
        )
    samples: list[DatasetSample | Skipped] = []
    targets: list[Mapping[str, object]] = []
    for row in range(len(source)):
        place = f"row {row} of {name}"
        sample, target = _row(source, row, place, image)
        samples.append(sample)
        targets.append(target)
    names = tuple(dict.fromkeys(key for target in targets for key in target))
    classes = _classes(source)

    def cells(column: str) -> list[object]:
        found = [target.get(column) for target in targets]
        return _named(found, classes, name) if column == "label" and classes is not None else found

    grid = Grid(name, names, frozenset(names), cells=cells, place=lambda row: f"row {row} of {name}")
    columns, parts = chosen_columns(grid, inputs=(), labels=labels, split=split)
    return Draft(name, {"image": samples}, columns, split=parts, opened=True)


def _row(source: Any, row: int, place: str, image: str | None) -> tuple[DatasetSample | Skipped, Mapping[str, object]]:
    """Open one item, look at its input and give its targets."""
    try:
        item = source[row]
        pick, target = _parts(item, place, image)
        _check_input(pick(item), place)
    except (DataError, ShapeError, LookupError, TypeError, AttributeError, NameError):
        raise  # a mistake in the data set's code, or items of the wrong sort: no row would do
    except Exception as error:  # what decoding raises
        return Skipped(place, unreadable(place, error).reason), {}
    return DatasetSample(place, source, row, pick), target


def _parts(item: Any, place: str, image: str | None) -> tuple[Callable[[Any], Any], Mapping[str, object]]:
    """Give what picks the input out of an item, and the targets."""
    if isinstance(item, Mapping):
        wanted = (image,) if image is not None else _INPUT_NAMES
        key = next((name for name in wanted if name in item), None)
        if key is None:
            unknown_column(place, wanted[0], [str(name) for name in item])
        return itemgetter(key), {str(name): cell for name, cell in item.items() if name != key}
    if image is not None:
        raise DataError(f"{place}: image={image!r} names a key, but the item is {_sort(item)}. Leave image out.")
    if not isinstance(item, (tuple, list)):
        return _itself, {}
    if len(item) not in (1, 2):
        raise DataError(
            f"{place} must be (input, target) or a mapping, got {_sort(item)}. Name its parts in a mapping."
        )
    target = item[1] if len(item) == 2 else {}
    if isinstance(target, Mapping):
        return itemgetter(0), {str(name): cell for name, cell in target.items()}
    return itemgetter(0), {"label": target}


def _check_input(value: Any, place: str) -> None:
    import torch
    from PIL import Image

    if isinstance(value, Image.Image):
        upright(value)
    elif not isinstance(value, torch.Tensor):
        raise DataError(
            f"{place} must have a PIL picture or a tensor (C, H, W) as its input, got {_sort(value)}. "
            "Turn arrays into pictures with PIL.Image.fromarray."
        )
    elif value.ndim != 3:
        raise ShapeError(f"{place} must have a tensor (C, H, W) as its input, got shape {tuple(value.shape)}.")


def _classes(source: Any) -> Sequence[str] | None:
    """Give the class names by torchvision's convention, through subsets."""
    from torch.utils.data import Subset

    while isinstance(source, Subset):
        source = source.dataset
    classes = getattr(source, "classes", None)
    if isinstance(classes, (list, tuple)) and all(isinstance(name, str) for name in classes):
        return classes
    return None


def _named(cells: Sequence[object], classes: Sequence[str], source: str) -> list[object]:
    """Turn class numbers into class names; leave other targets alone."""
    named: list[object] = []
    for row, cell in enumerate(cells):
        number = _number(cell)
        if number is not None and not 0 <= number < len(classes):
            raise DataError(f"row {row} of {source} must have a target from 0 to {len(classes) - 1}, got {number}.")
        named.append(cell if number is None else classes[number])
    return named


def _number(cell: Any) -> int | None:
    import numbers

    import torch

    if isinstance(cell, torch.Tensor) and cell.ndim == 0:
        cell = cell.item()
    return int(cell) if isinstance(cell, numbers.Integral) and not isinstance(cell, bool) else None


def _sort(item: Any) -> str:
    if isinstance(item, (tuple, list)):
        return f"a {type(item).__name__} of {len(item)}"
    return type(item).__name__


def _itself(item: Any) -> Any:
    return item
