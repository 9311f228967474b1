"""``zoo.search``: a space and data in; the best candidate, trained, and all that was tried out."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from zoo.data import Column, Table, read, split_table
from zoo.errors import ConfigError
from zoo.registry import registry
from zoo.searching.costs import COSTS, Limits
from zoo.searching.proposing import Proposer, check_sampler, library
from zoo.searching.record import Record
from zoo.searching.result import SearchResult
from zoo.searching.scores import read_scores
from zoo.searching.screening import first_of, screen
from zoo.searching.spaces import Space, read_space
from zoo.searching.trying import Study, plain
from zoo.strict import check_options
from zoo.training.fitting import fit
from zoo.training.resuming.identity import rows_digest

__all__ = ["search"]

_OWN = frozenset({
    "model", "data", "epochs", "seed", "checkpoint", "resume", "checkpoint_every", "keep_checkpoints", "validation",
    "strict", "report_to", "progress", "solver", "select", "settings", "unlabelled",
})  # fmt: skip
"""Arguments of ``zoo.fit`` that a search gives itself, or that make no validation score of an epoch."""


def search(
    space: Space | str | Mapping[str, Any],
    data: Table | str | Path | Any,
    folder: str | Path,
    *,
    trials: int = 20,
    sampler: str = "tpe",
    sampler_settings: Mapping[str, Any] | None = None,
    minimize: str | None = None,
    max_parameters: float | None = None,
    max_macs: float | None = None,
    max_latency: float | None = None,
    screened: int = 0,
    cut: int = 5,
    scores: str | Sequence[str] = ("synflow", "naswot"),
    epochs: int = 3,
    final_epochs: int = 20,
    validation: float = 0.2,
    seed: int = 0,
    strict: bool = False,
    **settings: Any,
) -> SearchResult:
    """Search a space: candidates within limits are trained shortly, and the best is trained longer.

    The study is a folder. Run again with the same arguments it goes on where it was killed, and ends as one that never
    was, but for what is measured by a clock; with more ``trials`` it goes on from there. A candidate that comes again
    is not trained again, and does not count.

    Args:
        space: A ``zoo.BlockSpace``, a ``zoo.ZooSpace``, a mapping as a file has it, or the reference of a base for a
            space of blocks.
        data: As for ``zoo.fit``.
        folder: The study's folder.
        trials: How many candidates are trained, 1 or more.
        sampler: What proposes them: ``tpe``, ``evolutionary`` (NSGA-II) or ``random``.
        sampler_settings: Settings of optuna's sampler, such as ``{"n_startup_trials": 5}``.
        minimize: What is to be small beside the score that is to be great: ``parameters``, ``macs`` or ``latency``;
            None for nothing. The best is that of the greatest score in any case; see ``SearchResult.front``.
        max_parameters: Parameters of the whole model at the most.
        max_macs: Multiply-accumulates of the backbone for one picture at the most.
        max_latency: Milliseconds of the backbone for one picture on this CPU at the most, the median of 15 passes.
        screened: How many candidates are drawn at random and scored without training, before the first trial; of
            spaces of blocks.
        cut: How many of those, the first by the mean rank of their scores, are the first trials.
        scores: The training-free scores: ``synflow``, ``naswot``.
        epochs: Epochs of a trial.
        final_epochs: Epochs of the best, from its first weights.
        validation: Share of the training rows by which candidates are told apart, where the data gives none; above 0.
            All trials have the same.
        seed: Seed of the split, the proposals and all training.
        strict: Whether an unreadable picture is an error instead of a skipped row.
        settings: Further settings of ``zoo.fit`` for all trials, such as ``batch_size``; they go over the space's.

    Returns:
        The best model, and all candidates.

    Raises:
        UnknownName: If a sampler, score, setting or backbone is not known.
        ConfigError: If a setting cannot be used, no candidate keeps the limits, or the folder is of another study.
        DataError: If the data cannot be used.
        BundleError: If the folder holds something else, or another search runs in it.
        PluginError: If optuna is not installed.
    """
    what = read_space(space)
    check_sampler(sampler, sampler_settings or {})
    limits = Limits(parameters=max_parameters, macs=max_macs, latency=max_latency)
    asked = read_scores(scores)
    _check_numbers(trials=trials, epochs=epochs, final_epochs=final_epochs, cut=cut)
    if not isinstance(screened, int) or isinstance(screened, bool) or screened < 0:
        raise ConfigError(f"screened must be a whole number, 0 or more, got {screened!r}.")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise ConfigError(f"seed must be a whole number from 0 to 2**32 - 1, got {seed!r}.")
    if not isinstance(validation, (int, float)) or not 0 < validation < 1:
        raise ConfigError(f"validation must be in (0, 1), for a search needs rows to judge by, got {validation!r}.")
    if screened and not what.scored:
        raise ConfigError("Training-free scores tell architectures apart, at random weights; screen a space of blocks.")
    if minimize is not None and minimize not in COSTS:
        raise ConfigError(f"minimize must be one of {', '.join(COSTS)}, or None, got {minimize!r}.")
    _check_settings(what, settings)
    table = _rows(read(data, strict=strict), validation, seed)
    identity = {
        "space": what.as_json(), "sampler": sampler, "sampler_settings": dict(sampler_settings or {}),
        "minimize": minimize, "limits": asdict(limits), "screened": screened, "cut": cut if screened else None,
        "scores": list(asked) if screened else None, "epochs": epochs, "validation": validation, "seed": seed,
        "settings": {name: plain(value) for name, value in settings.items()},
        "data": rows_digest(table, {name: name for name in table.columns}),
        "optuna": library().__version__, "torch": str(torch.__version__),
    }  # fmt: skip
    proposer = Proposer(what, sampler, sampler_settings or {}, seed=seed, costs=0 if minimize is None else 1)
    run = Study(what, table, limits, minimize, epochs, seed, settings)
    with Record.opened(Path(folder), identity) as record:
        screen(run, record, screened, asked)
        run.go(record, proposer, first_of(record, cut), trials)
        return run.finish(record, final_epochs)


def _check_numbers(**given: Any) -> None:
    for name, value in given.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{name} must be a whole number, 1 or more, got {value!r}.")


def _check_settings(space: Space, settings: Mapping[str, Any]) -> None:
    """Refuse settings that some trial could not have, before anything is trained."""
    known = set(inspect.signature(fit).parameters) - _OWN
    for method, chosen in space.trained_by().items():
        at = settings.get("method", method)
        own = {one.name for one in fields(registry().method_class(at))}
        there = {*settings, *(chosen if at == method else ())}
        check_options(f"zoo.search with the method {at!r}", dict.fromkeys(there), known | own)


def _rows(table: Table, validation: float, seed: int) -> Table:
    """Say of each row in which part it is, the same for all trials."""
    if table.split is not None and "validation" in table.split:
        return table
    name = "\0row"
    numbered = replace(table, columns={**table.columns, name: Column(name, "number", tuple(range(len(table))))})
    even = list(table.columns) if len(table.columns) == 1 else []
    parts = split_table(
        numbered, fractions={"train": 1 - validation, "validation": validation}, seed=seed, stratify=even
    )
    part_of = {row: part for part, rows in parts.items() for row in rows.column(name).values}
    return table.with_split([part_of[row] for row in range(len(table))])
