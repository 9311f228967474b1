"""The one door: any source to a table."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from zoo.data.drafts import Draft, settle
from zoo.data.folder import read_folder
from zoo.data.huggingface import is_huggingface, read_huggingface
from zoo.data.table import Table, name_list, unknown_column
from zoo.data.tabular import TABLE_SUFFIXES, read_tabular
from zoo.data.torch_dataset import is_torch_dataset, read_torch_dataset
from zoo.data.wanted import Wanted, wanted
from zoo.errors import ConfigError, DataError

__all__ = ["read"]

_ACCEPTED = (
    f"a folder of class folders, a {', '.join(TABLE_SUFFIXES[:-1])} or {TABLE_SUFFIXES[-1]} file, "
    "a Hugging Face Dataset or DatasetDict, a torch Dataset, or a Table"
)


def read(
    source: object,
    *,
    image: str | None = None,
    inputs: Mapping[str, str] | None = None,
    texts: Mapping[str, str] | Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    masks: Sequence[str] = (),
    split: str | None = None,
    strict: bool = False,
    check: bool = True,
) -> Table:
    """Read any source into a table, and say what is wrong with it.

    Args:
        source: A folder of class folders (with or without split folders around them), a CSV, TSV or Parquet file, a
            Hugging Face ``Dataset`` or ``DatasetDict``, a torch ``Dataset``, or a `Table`, which passes as it is.
        image: The column of the pictures; None finds it. Folders and tables have no such choice.
        inputs: For a model with several inputs, input name to the column of its pictures. A row may then lack one: its
            cell is empty.
        texts: Input name to the column of its texts, or the columns whose inputs are called alike.
        labels: The columns to keep as labels; None keeps all that can be labels.
        masks: The label columns whose cells are masks: paths of grey or palette pictures (relative to the folder of the
            table), encoded bytes, or Hugging Face images, whose pixel values are class numbers. They are labels
            whether ``labels`` names them or not; an empty cell is a row without a mask. Each is opened when it is
            needed.
        split: The column of the parts; None takes one called "split" that holds names of parts.
        strict: Whether one unreadable picture is an error; otherwise its row is listed in ``Table.skipped``.
        check: Whether every picture and mask is decoded once to find the unreadable ones. Without it only missing files
            are found. A torch data set is opened either way, since its targets come with its pictures.

    Returns:
        The table of the readable rows.

    Raises:
        DataError: If the source is missing, empty, of another sort, or holds something that cannot be used.
        UnknownName: If a named column does not exist; the message has the nearest names.
        ConfigError: If an argument does not go with the source.
    """
    labels = None if labels is None else name_list("labels", labels)
    chosen = wanted(image, inputs, texts, name_list("masks", masks))
    if isinstance(source, Table):
        return _pass(source, inputs=chosen, labels=labels, split=split, strict=strict)
    return settle(_draft(source, inputs=chosen, labels=labels, split=split), strict=strict, check=check)


def _draft(source: object, *, inputs: Wanted, labels: Sequence[str] | None, split: str | None) -> Draft:
    if isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        try:
            return _path_draft(path, inputs=inputs, labels=labels, split=split)
        except OSError as error:
            raise DataError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    if is_huggingface(source):
        return read_huggingface(source, inputs=inputs, labels=labels, split=split)
    if is_torch_dataset(source):
        if inputs.several:
            raise ConfigError("A torch data set has one input; put the samples of several into a zoo.Table.")
        if inputs.masks:
            named = ", ".join(inputs.masks)
            raise ConfigError(
                f"A torch data set has no columns of files, got masks={named!r}; put its samples into a zoo.Table with "
                "a column of kind 'mask'."
            )
        return read_torch_dataset(source, image=inputs.alone, labels=labels, split=split)
    raise DataError(f"Data must be {_ACCEPTED}, got {type(source).__name__}.")


def _path_draft(path: Path, *, inputs: Wanted, labels: Sequence[str] | None, split: str | None) -> Draft:
    if not path.is_dir():
        return read_tabular(_table_file(path), inputs=inputs, labels=labels, split=split)
    _refuse("A folder of pictures", inputs, split)
    draft = read_folder(path)
    return draft if labels is None else _labelled(draft, labels)


def _table_file(path: Path) -> Path:
    """Check that a path is a file of a known sort."""
    if not path.exists():
        raise DataError(f"There is no file or folder '{path}'; data must be {_ACCEPTED}.")
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError(f"Data must be {_ACCEPTED}, got the file '{path}'.")
    return path


def _pass(table: Table, *, inputs: Wanted, labels: Sequence[str] | None, split: str | None, strict: bool) -> Table:
    """Pass a table on, with the label columns asked for."""
    _refuse("A table that is read already", inputs, split)
    if strict and table.skipped:
        raise DataError(f"{table.source}: {len(table.skipped)} rows were skipped, and strict allows none.")
    return table if labels is None else replace(table, columns={name: table.column(name) for name in labels})


def _labelled(draft: Draft, labels: Sequence[str]) -> Draft:
    """Keep the label columns asked for of a folder, whose only one is "label"."""
    for name in labels:
        if name not in draft.columns:
            unknown_column(draft.source, name, draft.columns)
    classes = draft.classes if "label" in labels else None
    return replace(draft, columns={name: draft.columns[name] for name in labels}, classes=classes)


def _refuse(what: str, inputs: Wanted, split: str | None) -> None:
    named = {"image" if not inputs.several else "inputs": ", ".join(filter(None, inputs.pictures.values()))}
    named |= {"texts": ", ".join(inputs.texts.values()), "masks": ", ".join(inputs.masks), "split": split or ""}
    for name, value in named.items():
        if value:
            raise ConfigError(f"{what} has no columns to choose from, got {name}={value!r}. Leave {name} out.")
