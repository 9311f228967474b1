"""What an objective asks for beside the plain batch: further views of rows, rows for other models, unlabelled rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from zoo.augmentation import Augmentation
from zoo.contracts.objective import Objective
from zoo.data import Table, batched, placed
from zoo.ensembling.ensemble import Ensemble
from zoo.errors import ConfigError
from zoo.model import Model
from zoo.training.rows.batches import Collator, Row, SampleRows, ViewRows, view_seed
from zoo.training.rows.looking import spread
from zoo.training.rows.masks import Targets
from zoo.training.rows.predictor import Predictor

__all__ = ["AskedCollator", "AskedRows", "RowsToSee", "by_kind"]

_VIEW, _OTHER, _UNLABELLED = "views/", "others/", "unlabelled/"
_APART = 1_000_003  # what sets the seeds of one kind of views apart from those of another


class AskedRows(Dataset[Row]):
    """Training rows with what an objective asks for in each step.

    Everything is decided by the seed, the epoch and the row, so that a run is the same with any number of workers.
    Rows without labels are gone through in an order that changes with each epoch: over epochs each comes as often as
    any other.

    Args:
        model: The model.
        rows: The training rows as a run without an objective has them.
        table: The table that they are of, row for row.
        objective: What asks.
        unlabelled: Rows without labels, if it asks for some.
        augmentation: How ``rows`` are varied; the views for other models are the same.
        seed: The run's seed.
    """

    def __init__(
        self,
        model: Model,
        rows: Dataset[Row],
        table: Table,
        objective: Objective,
        unlabelled: Table | None,
        augmentation: Augmentation | None,
        seed: int,
    ) -> None:
        self.rows: Any = rows
        self._passes = objective.passes
        self._seed = seed
        self._epoch = 0
        self._views = [_seen(model, table, how, seed + _APART * (k + 1)) for k, how in enumerate(objective.views)]
        self._others = {name: _seen(other, table, augmentation, seed) for name, other in objective.others.items()}
        self._ratio = objective.unlabelled_ratio
        self._orders: dict[int, list[int]] = {}
        self._unlabelled = [
            _seen(model, unlabelled, how, seed - _APART * (k + 1))
            for k, how in enumerate(objective.unlabelled_views)
            if unlabelled is not None
        ]
        if hasattr(rows, "__getitems__") and not (self._views or self._others or self._unlabelled):
            self.__getitems__ = rows.__getitems__

    @property
    def epoch(self) -> int:
        """The epoch whose views are given, from 0; the engine sets it when an epoch begins."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch = epoch
        for rows in (self.rows, *self._views, *self._others.values(), *self._unlabelled):
            if hasattr(rows, "epoch"):
                rows.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Row:
        made: dict[str, Any] = dict(self.rows[row]) if self._passes else {"targets": self.rows.targets_of(row)}
        for k, rows in enumerate(self._views):
            made[f"{_VIEW}{k}"] = rows[row]["inputs"]
        for name, rows in self._others.items():
            made[f"{_OTHER}{name}"] = rows[row]["inputs"]
        drawn = self._drawn(row) if self._unlabelled else []
        for k, rows in enumerate(self._unlabelled):
            made[f"{_UNLABELLED}{k}"] = [rows[one]["inputs"] for one in drawn]
        return made

    def _drawn(self, row: int) -> list[int]:
        """Give the unlabelled rows that go with a row: those of its place in an order of all, which epochs change."""
        count, total = self._ratio, len(self._unlabelled[0])
        found = []
        for place in range(row * count, (row + 1) * count):
            around, place = divmod(place + self._epoch * len(self) * count, total)
            if around not in self._orders:
                generator = torch.Generator().manual_seed(view_seed(self._seed, around, -2))
                self._orders = {around: torch.randperm(total, generator=generator).tolist()}
            found.append(self._orders[around][place])
        return found


def _seen(model: Predictor, table: Table, how: Augmentation | None, seed: int) -> SampleRows:
    """Give the rows as a model takes them, plain or varied."""
    if how is None or how.idle:
        return SampleRows(model, table, {})
    tta = model.spec.views if isinstance(model, Ensemble) else None
    if tta is not None and tta.augmentation is not None:
        raise ConfigError(
            "An ensemble that varies pictures itself (tta) cannot see training views, which are varied already; leave "
            "the augmentation out, or make the ensemble with tta='flip' or without."
        )
    return ViewRows(model, table, {}, how, seed)


class AskedCollator(Collator):
    """Makes batches of rows with what an objective asks for.

    Args:
        model: The model.
        objective: What asks.
    """

    def __init__(self, model: Predictor, objective: Objective) -> None:
        super().__init__(model.preparers())
        self._others = {f"{_OTHER}{name}": other.preparers() for name, other in objective.others.items()}

    def __call__(self, rows: Sequence[Row] | dict[str, Any]) -> dict[str, Any]:
        """Make a batch; one that is made already stays as it is."""
        if isinstance(rows, dict):
            return rows
        apart = {group for group in rows[0] if "/" in group}
        batch = super().__call__([{group: one for group, one in row.items() if group not in apart} for row in rows])
        for group in sorted(apart):
            held: list[Any] = [row[group] for row in rows]
            if isinstance(held[0], list):
                held = [one for several in held for one in several]
            made = {key: [one[key] for one in held] for key in held[0]}
            batch[group] = batched(self._others.get(group, self._preparers), made)
        return batch


def by_kind(objective: Objective, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Sort what came of a batch's groups into what :class:`zoo.Batch` calls them."""
    return {
        "views": [asked[f"{_VIEW}{k}"] for k in range(len(objective.views))],
        "others": {name: asked[f"{_OTHER}{name}"] for name in objective.others},
        "unlabelled": [asked[f"{_UNLABELLED}{k}"] for k in range(len(objective.unlabelled_views))],
    }


class RowsToSee:
    """The training rows for an objective that looks at them before training: ``zoo.contracts.objective.TrainingRows``.

    Args:
        model: The model.
        objective: What looks.
        table: The training rows.
        targets: Task name to targets, one a row.
        unlabelled: Rows without labels; None for none.
        columns: Task name to label column.
        fixed: Whether every epoch sees the plain rows.
        batch_size: Rows of a batch.
        place: Where to compute.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective,
        table: Table,
        targets: Mapping[str, Targets],
        unlabelled: Table | None,
        *,
        columns: Mapping[str, str],
        fixed: bool,
        batch_size: int,
        place: torch.device,
    ) -> None:
        self.fixed, self.place = fixed, place
        self.targets: Mapping[str, Any] = targets
        self._table, self._unlabelled, self._size = table, unlabelled, batch_size
        self._columns = columns
        self._model: Callable[[str | None], Predictor] = lambda name: model if name is None else objective.others[name]

    def __len__(self) -> int:
        return len(self._table)

    def batches(self, other: str | None = None, *, most: int | None = None) -> Iterator[Any]:
        """Give what the model takes of the rows, or another model of the objective's, batch by batch."""
        return self._inputs(self._model(other), self._table, most)

    def keep(self, rows: Sequence[int]) -> dict[str, Any]:
        """Copy rows into a tree of tensors and JSON, for ``model.state``; see :meth:`zoo.Table.keep`."""
        return self._table.keep(rows, self._columns)

    def unlabelled(self) -> Iterator[Any]:
        """Give what the model takes of the rows without labels, batch by batch."""
        return iter(()) if self._unlabelled is None else self._inputs(self._model(None), self._unlabelled)

    def _inputs(self, model: Predictor, table: Table, most: int | None = None) -> Iterator[Any]:
        rows = SampleRows(model, table, {})
        places = None if most is None else spread(len(rows), most, self._size)
        size = self._size if places is None else 1
        for batch in DataLoader(rows, size, batch_sampler=places, collate_fn=Collator(model.preparers())):
            yield placed(batch, self.place)["inputs"]
