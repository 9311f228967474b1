"""Fitting an ensemble: what its members gave on validation rows, and from it their weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from zoo.contracts.head import Task
from zoo.contracts.modules import ModuleMap
from zoo.data import Table, placed
from zoo.ensembling.combining import Stack
from zoo.ensembling.ensemble import Ensemble
from zoo.ensembling.solving import fit_stack, greedy_counts, simplex_weights
from zoo.ensembling.spec import FITTED
from zoo.errors import ConfigError, DataError
from zoo.training.judging.evaluation import part_of, pick_device
from zoo.training.rows.batches import Collator, SampleRows
from zoo.training.rows.tables import read_for
from zoo.training.rows.targets import columns_of, encode

__all__ = ["fit_ensemble", "validation_rows"]

_SETTINGS = {"weighted": (), "greedy": ("rounds", "start"), "stacking": ("strength",)}


def fit_ensemble(
    ensemble: Ensemble,
    data: Table | str | Path | Any,
    *,
    split: str | None = None,
    rounds: int | None = None,
    start: int | None = None,
    strength: float | None = None,
    batch_size: int = 32,
    device: str = "auto",
    strict: bool = False,
) -> Ensemble:
    """Fit the weights of an ensemble on validation data, for each task; the members stay as they are.

    Args:
        ensemble: Its ``combine`` says what is fitted: ``weighted``: weights with sum 1 that make the task's loss least;
            ``greedy``: how often each member is selected, by the task's deciding metric; ``stacking``: a linear model.
        data: As for ``zoo.fit``; rows that the members were not trained on.
        split: The part of the data to use; by default its validation rows, or all where the data has no parts.
        rounds: For ``greedy``: selections at the most, 1 or more; None for 20.
        start: For ``greedy``: how many of the best members are there from the beginning; None for 1.
        strength: For ``stacking``: how strongly the weights are drawn to the plain mean, above 0; None for 1.
        batch_size: Samples in one pass, 1 or more.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        strict: Whether an unreadable picture is an error.

    Returns:
        The ensemble itself, in eval mode.

    Raises:
        ConfigError: If there is nothing to fit, or a setting cannot be used.
        DataError: If the data cannot be used, has no validation rows, or no label of a task.
        UnknownName: If a task's label column is not there.
    """
    how = ensemble.spec.combine
    if how not in FITTED:
        raise ConfigError(f"combine={how!r} has nothing to fit; those that have are {', '.join(FITTED)}.")
    given = {"rounds": rounds, "start": start, "strength": strength}
    settings = _settings(how, {name: value for name, value in given.items() if value is not None}, ensemble)
    if batch_size < 1:
        raise ConfigError(f"batch_size must be 1 or more, got {batch_size}.")
    table = validation_rows(read_for(ensemble, data, strict=strict), split)
    targets = encode(ensemble, table, columns_of(ensemble, table))
    tasks = _precise(ensemble)
    for name, task in tasks.items():
        if not bool(task.known(targets[name]).any()):
            raise DataError(f"{table.source} has no label of {name!r} in the rows that the ensemble is fitted on.")
    outputs = _outputs(ensemble, table, targets, batch_size, pick_device(device))
    weights: dict[str, tuple[float, ...]] = {}
    stacks: dict[str, Stack] = {}
    for name, task in tasks.items():
        known = task.known(targets[name])
        target, each = targets[name][known], outputs[name][:, known]
        wide = target.double() if target.is_floating_point() else target
        if how == "stacking":
            stacks[name] = fit_stack(task, each.double(), wide, strength=settings["strength"])
        elif how == "weighted":
            weights[name] = simplex_weights(task, each.double(), wide)
        else:
            counts = greedy_counts(ensemble.tasks()[name], each, target, **settings)
            weights[name] = tuple(float(count) for count in counts)
    if how == "stacking":
        ensemble.stacks = ModuleMap(stacks).to(next(ensemble.parameters()).device)
    else:
        ensemble.set_weights(weights)
    ensemble.provenance["fitted"] = {"data": table.source, "rows": len(table), **settings}
    return ensemble.eval()


def validation_rows(table: Table, split: str | None) -> Table:
    """Take the rows to fit on: of one part, by default of validation, or all where there are no parts.

    Raises:
        DataError: If there are none.
    """
    if split is None and not any(table.split or ()):
        return table
    return part_of(table, split or "validation")


def _settings(how: str, given: Mapping[str, Any], ensemble: Ensemble) -> dict[str, Any]:
    """Check the settings of a way of combining, and fill in the others.

    Raises:
        ConfigError: If one is not of this way, or out of its range.
    """
    for name in given:
        if name not in _SETTINGS[how]:
            owner = next(other for other, names in _SETTINGS.items() if name in names)
            raise ConfigError(f"{name} is of combine={owner!r}; leave it out where combine is {how!r}.")
    settings = {
        name: value for name, value in (("rounds", 20), ("start", 1), ("strength", 1.0)) if name in _SETTINGS[how]
    }
    settings |= given
    members = len(ensemble.members)
    for name, most in (("rounds", math.inf), ("start", min(members, settings.get("rounds", members)))):
        value = settings.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            top = "or more" if most == math.inf else f"to {most}"
            raise ConfigError(f"{name} must be a whole number, 1 {top}, got {value!r}.")
    strength = settings.get("strength", 1.0)
    if isinstance(strength, bool) or not isinstance(strength, (int, float)) or not 0 < strength < math.inf:
        raise ConfigError(f"strength must be a number above 0, got {strength!r}.")
    return settings


def _precise(ensemble: Ensemble) -> dict[str, Task]:
    """Give copies of the tasks in float64, on the CPU; a copy of their heads, since one may speak for another."""
    first = next(iter(ensemble.members.values()))
    heads = copy.deepcopy(first.heads).to("cpu", torch.float64)
    return {name: task for head in heads.values() for name, task in head.tasks().items()}


def _outputs(
    ensemble: Ensemble, table: Table, targets: Mapping[str, Tensor], batch_size: int, place: torch.device
) -> dict[str, Tensor]:
    """Give what the members say of all rows: task name to ``(M, N, …)`` on the CPU."""
    rows = SampleRows(ensemble, table, targets)
    found: dict[str, list[Tensor]] = {}
    ensemble.eval().to(place)
    with torch.no_grad():
        for batch in DataLoader(rows, batch_size=batch_size, collate_fn=Collator(ensemble.preparers())):
            for name, outputs in ensemble.member_outputs(placed(batch["inputs"], place)).items():
                found.setdefault(name, []).append(outputs.cpu())
    return {name: torch.cat(parts, dim=1) for name, parts in found.items()}
