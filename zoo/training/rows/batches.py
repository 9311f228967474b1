"""Rows as torch data sets (samples, training views, features that were computed before), and batches of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.augmentation import Augmentation, Views
from zoo.data import Inputs, Preparer, Table, batched
from zoo.errors import ConfigError, DataError
from zoo.model import Model
from zoo.training.features.replay import Prefix
from zoo.training.features.shards import StoredFeatures
from zoo.training.rows.masks import MaskTargets, Targets, stacked_targets
from zoo.training.rows.predictor import Predictor

__all__ = ["Collator", "FeatureRows", "Row", "SampleRows", "ViewRows", "rows_of"]

Row = dict[str, dict[str, Any]]


class SampleRows(Dataset[Row]):
    """Samples, opened and prepared when they are asked for, with their targets.

    Args:
        model: The model that is to take them.
        table: The rows.
        targets: Task name to targets, one a row.

    Raises:
        DataError: If the table lacks an input of the model, or a row one that it must have.
    """

    def __init__(self, model: Predictor, table: Table, targets: Mapping[str, Targets]) -> None:
        self._preparers = model.preparers()
        self._samples = model_inputs(model, table)
        _check_missing(self._preparers, self._samples, table.source)
        self._targets = dict(targets)

    def __len__(self) -> int:
        return len(next(iter(self._samples.values())))

    def __getitem__(self, row: int) -> Row:
        inputs = {key: self._prepared(key, preparer, row) for key, preparer in self._preparers.items()}
        return {"inputs": inputs, "targets": self.targets_of(row)}

    def targets_of(self, row: int) -> dict[str, Tensor]:
        """Give the targets of a row by task, without its inputs."""
        return {name: self.target(targets, row) for name, targets in self._targets.items()}

    def target(self, targets: Targets, row: int) -> Tensor:
        """Give the target of a row."""
        return targets[row]

    def _prepared(self, key: str, preparer: Preparer, row: int) -> Any:
        return preparer.one(self._samples[preparer.input][row])


class ViewRows(SampleRows):
    """Pictures as training views, with their targets; texts and sounds stay as they are.

    A view is decided by the seed, the epoch and the row alone, so a run is the same with any number of workers, and the
    pictures of one row are varied alike.

    Args:
        model: The model in whose preprocessing the views end; of several as one, in that of each.
        table: The rows.
        targets: Task name to targets, one a row.
        augmentation: How pictures are varied.
        seed: The run's seed.

    Raises:
        ConfigError: If what the model does to a picture is no recipe, in which a view could end.
        DataError: If the table lacks an input of the model.
    """

    def __init__(
        self, model: Predictor, table: Table, targets: Mapping[str, Targets], augmentation: Augmentation, seed: int
    ) -> None:
        super().__init__(model, table, targets)
        self._views = {key: _views(model, augmentation, preparer) for key, preparer in self._preparers.items()}
        self._seed = seed
        self.epoch = 0
        """The epoch whose views are given, from 0; the engine sets it when an epoch begins."""

    def target(self, targets: Targets, row: int) -> Tensor:
        """Give the target of a row's view."""
        views = self._views[targets.key] if isinstance(targets, MaskTargets) else None
        if views is None or isinstance(targets, Tensor):
            return targets[row]
        return targets.view(row, views, view_seed(self._seed, self.epoch, row))

    def _prepared(self, key: str, preparer: Preparer, row: int) -> Any:
        sample, views = self._samples[preparer.input][row], self._views[key]
        if sample is None or views is None:
            return preparer.one(sample)
        opened: Any = sample.glance()
        try:
            return views(opened, view_seed(self._seed, self.epoch, row), spend=True)
        except DataError as error:
            raise DataError(f"{sample.name}: {error}") from error


def _views(model: Predictor, augmentation: Augmentation, preparer: Preparer) -> Views | None:
    if preparer.modality != "image":
        return None
    if preparer.recipe is None:
        who = f"A backbone on the input {preparer.input!r}"
        if isinstance(model, Model):
            who = next(s.backbone.reference for s in model.spec.streams.values() if s.input == preparer.input)
        raise ConfigError(
            f"{who} prepares pictures by its library's own processor, and training views need a recipe; "
            "leave the augmentation out."
        )
    return augmentation.views(preparer.recipe)


def rows_of(model: Predictor, table: Table) -> list[Inputs]:
    """Give the rows of a table as the model takes them; raises as :class:`SampleRows` does."""
    samples = model_inputs(model, table)
    _check_missing(model.preparers(), samples, table.source)
    return [dict(zip(samples, given, strict=True)) for given in zip(*samples.values(), strict=True)]


def model_inputs(model: Predictor, table: Table) -> dict[str, tuple[Any, ...]]:
    """Give the table's samples of each input of a model; the only one of both may be called as it likes.

    Raises:
        DataError: If the table lacks one.
    """
    names = model.input_names
    if len(names) == len(table.inputs) == 1:
        return {names[0]: next(iter(table.inputs.values()))}
    for name in names:
        if name not in table.inputs:
            raise DataError(
                f"The model needs the input {name!r}, and {table.source} has {', '.join(table.inputs)}; name its "
                f"column with zoo.read(…, inputs={{{name!r}: '…'}})."
            )
    return {name: table.inputs[name] for name in names}


def _check_missing(preparers: Mapping[str, Preparer], samples: Mapping[str, Sequence[Any]], source: str) -> None:
    """Refuse rows that lack an input that the model needs, or all of them."""
    for preparer in preparers.values():
        held = samples[preparer.input]
        if not preparer.optional and None in held:
            raise DataError(
                f"{source} has nothing for the input {preparer.input!r} in row {held.index(None)}; fill it, leave the "
                "row out, or give the heads that read it missing='mask'."
            )
    empty = next(
        (
            row
            for row, given in enumerate(zip(*samples.values(), strict=True))
            if not any(one is not None for one in given)
        ),
        None,
    )
    if empty is not None:
        raise DataError(f"{source} has nothing for any input in row {empty}; leave the row out.")


def view_seed(seed: int, epoch: int, row: int) -> int:
    """Mix a run's seed, an epoch and a row into the seed of one view, 0 to 2**63 - 1."""
    mixed = hashlib.blake2b(f"{seed} {epoch} {row}".encode(), digest_size=8).digest()
    return int.from_bytes(mixed, "big") >> 1


class FeatureRows(Dataset[Row]):
    """Features that were computed before, with their targets.

    Args:
        features: One set of features a row, for each cached view; epoch ``e`` gives those of view ``e`` modulo their
            number.
        targets: Task name to targets, one a row.
        prefixes: Where the features are what frozen prefixes gave, stream name to prefix; the batches have them in the
            place of the streams' inputs.
        views: The rows as views, whose masks follow them; None where the pictures are not varied.
    """

    def __init__(
        self,
        features: Sequence[StoredFeatures],
        targets: Mapping[str, Targets],
        *,
        prefixes: Mapping[str, Prefix] | None = None,
        views: ViewRows | None = None,
    ) -> None:
        self._features = list(features)
        self._targets = dict(targets)
        self._views = views
        self.prefixes = dict(prefixes or {})
        self.epoch = 0
        """The epoch whose view is given, from 0; the engine sets it when an epoch begins."""

    def __len__(self) -> int:
        return len(self._features[0])

    def __getitem__(self, row: int) -> Row:
        batch = self.batch([row])
        one: Row = {"targets": {name: value[0] for name, value in batch["targets"].items()}}
        if not self.prefixes:
            return one | {"features": {key: value[0] for key, value in batch["features"].items()}}
        return one | {"inputs": {s: {k: v[0] for k, v in held.items()} for s, held in batch["inputs"].items()}}

    def __getitems__(self, rows: Sequence[int]) -> Any:
        """Give a whole batch at once, as the loader asks for it; the collator lets it through."""
        return self.batch(rows)

    def batch(self, rows: Sequence[int]) -> dict[str, Any]:
        """Give a batch, as :class:`Collator` makes it."""
        flat = self.features(rows)
        if self._views is not None:
            self._views.epoch = self.epoch % len(self._features)
        targets = {name: self._target(held, rows) for name, held in self._targets.items()}
        if not self.prefixes:
            return {"features": flat, "targets": targets}
        inputs: dict[str, dict[str, Tensor]] = {}
        for key, value in flat.items():
            stream, _, inside = key.partition("/")
            inputs.setdefault(stream, {})[inside] = value
        return {"inputs": inputs, "targets": targets}

    def features(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Give the features of a batch alone, flat."""
        held = self._features[self.epoch % len(self._features)]
        return {key: _raised(value) for key, value in held.batch(rows).items()}

    @property
    def views(self) -> int:
        """How many views of each row there are."""
        return len(self._features)

    def parts(self, key: str) -> Iterator[dict[str, Tensor]]:
        """Give one of the features of all rows, for each view."""
        for held in self._features:
            yield {key: _raised(held.whole(key)[key])}

    def _target(self, targets: Targets, rows: Sequence[int]) -> Tensor:
        if isinstance(targets, Tensor):
            return targets[torch.as_tensor(rows)]
        views = self._views
        return stacked_targets([targets[row] if views is None else views.target(targets, row) for row in rows])


def _raised(value: Tensor) -> Tensor:
    """Give what was stored in bfloat16 in the precision of the heads."""
    return value.float() if value.dtype is torch.bfloat16 else value


class Collator:
    """Makes batches of rows; it pickles, so that it can go to loader workers.

    Args:
        preparers: Key to preparer, as the model gives them.

    Shape:
        - returns: ``inputs`` or ``features``, and ``targets``: name to ``(B, …)``.

    Raises:
        ShapeError: When it is called, if the pictures of a batch differ in size.
    """

    def __init__(self, preparers: Mapping[str, Preparer]) -> None:
        self._preparers = dict(preparers)

    def __call__(self, rows: Sequence[Row] | dict[str, Any]) -> dict[str, Any]:
        """Make a batch; one that is made already stays as it is."""
        if isinstance(rows, dict):
            return rows
        batch: dict[str, Any] = {}
        for group in rows[0]:
            made = {name: [row[group][name] for row in rows] for name in rows[0][group]}
            if group == "inputs":
                batch[group] = batched(self._preparers, made)
            else:
                stack = stacked_targets if group == "targets" else torch.stack
                batch[group] = {name: stack(values) for name, values in made.items()}
        return batch
