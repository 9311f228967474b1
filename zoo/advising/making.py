"""``zoo.advise``: data and a backbone in, the method that fits and the evidence for it out."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.advising.advice import Advice
from zoo.advising.drift import Drift, drift
from zoo.advising.evidence import PRETRAINED, TaskEvidence, collect
from zoo.advising.questions import Question, ask, measurable
from zoo.advising.rules import RULES, Placement, place, rule_of
from zoo.advising.size import Size, size_of
from zoo.advising.vectors import frozen_vectors, pixel_vectors, streams_of, untrained
from zoo.assembly import BackboneLike, HeadLike, build
from zoo.data import Inputs, Table, check_labels, split_table
from zoo.errors import ConfigError, DataError
from zoo.model import Model
from zoo.training.judging.evaluation import pick_device
from zoo.training.planning.groups import outlines
from zoo.training.rows.batches import rows_of
from zoo.training.rows.heads import infer_heads
from zoo.training.rows.tables import read_for
from zoo.training.rows.targets import columns_of, labels_of

__all__ = ["advise"]

log = logging.getLogger("zoo")

SEED = 7919
"""Added to the seed for the weights of the untrained model, so that they are not those of a model built with it."""
IMBALANCED = 10
"""Rows of the commonest class to each of the rarest from which on balanced class weights are worth a word."""


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """A task that is to be judged: its labels in the sample, those that can be measured, and its size in all rows."""

    question: Question
    column: str
    size: Size
    left_out: tuple[str, ...]
    streams: tuple[str, ...]


def advise(
    model: Model | BackboneLike,
    data: Table | str | Path | Any,
    *,
    heads: Sequence[HeadLike] = (),
    rows: int = 1000,
    probe: bool = True,
    seed: int = 0,
    device: str = "auto",
    weights: str | Path | None = "pretrained",
    strict: bool = False,
) -> Advice:
    """Say which training method fits data and backbone, with the evidence. Nothing is trained or written but features.

    Args:
        model: The model that is to be trained, which stays as it is; or the reference of a backbone.
        data: As for ``zoo.fit``. Rows that it marks as validation or test are left out.
        heads: For a reference: the heads; those that the labels call for by default.
        rows: Most rows whose features are measured, 20 or more; drawn so that classes keep their shares.
        probe: Whether to fine-tune a copy for 30 steps, a minute at the most, to see how far its features move. That
            is told and decides nothing.
        seed: Seed of the rows, folds and random weights.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        weights: For a reference: as for ``zoo.build``.
        strict: Whether an unreadable picture is an error instead of a skipped row.

    Returns:
        The advice.

    Raises:
        ConfigError: If a setting cannot be used.
        DataError: If the data cannot be used or judged: no labels, masks, one class only, too few rows.
        UnknownName: If a label column, backbone or head is not there.

    Example:
        >>> import zoo
        >>> callable(zoo.advise)
        True
    """
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 20:
        raise ConfigError(f"rows must be a whole number, 20 or more, got {rows!r}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ConfigError(f"seed must be a whole number, 0 to 2**32 - 1, got {seed!r}.")
    if isinstance(model, Model) and heads:
        raise ConfigError("heads are for a backbone by reference; this model has its own.")
    started = time.monotonic()
    place_ = pick_device(device)
    if not isinstance(model, Model):
        model = build(model, infer_heads(data, heads=heads), weights=weights, seed=seed)
    table = _training_rows(read_for(model, data, strict=strict))
    columns = columns_of(model, table)
    check_labels(table, sorted(set(columns.values())))
    sample = _sampled(table, sorted(set(columns.values())), rows, seed)
    asked = [_asked(model, name, columns[name], table, sample) for name in model.tasks()]
    inputs = rows_of(model, sample)
    evidence, found = _measured(model, asked, inputs, place_, seed)
    placements = {one.task: place(one) for one in evidence}
    hardest = min(range(len(evidence)), key=lambda at: evidence[at].gain)
    moved = _moved(model, asked[hardest], inputs, found[hardest], place_, seed) if probe else None
    return _advice(model, table, len(sample), evidence, placements, hardest, moved, seed, time.monotonic() - started)


def _training_rows(table: Table) -> Table:
    """Take the rows that are not held out."""
    kept = [row for row, part in enumerate(table.split or (None,) * len(table)) if part in (None, "train")]
    if not kept:
        raise DataError(f"{table.source} has no training rows to judge by.")
    return table if len(kept) == len(table) else table.select(kept)


def _sampled(table: Table, columns: Sequence[str], rows: int, seed: int) -> Table:
    """Draw rows, so that classes keep their shares."""
    if len(table) <= rows:
        return table
    share = rows / len(table)
    parts = {"train": share, "validation": 1 - share}
    return split_table(table.with_split(None), fractions=parts, seed=seed, stratify=columns)["train"]


def _asked(model: Model, name: str, column: str, table: Table, sample: Table) -> _Asked:
    task = model.tasks()[name]
    size = size_of(ask(name, task, labels_of(table.column(column))))
    question, left_out = measurable(ask(name, task, labels_of(sample.column(column))))
    return _Asked(question, column, size, left_out, streams_of(model, name))


def _measured(
    model: Model, asked: Sequence[_Asked], inputs: Sequence[Inputs], place_: torch.device, seed: int
) -> tuple[list[TaskEvidence], list[dict[str, Tensor]]]:
    """Measure all tasks; with the features of the rows of each."""
    twin = untrained(model, seed=(seed + SEED) % 2**32)
    held: dict[tuple[str, ...], dict[str, Tensor]] = {}
    for streams in dict.fromkeys(one.streams for one in asked):
        log.info("Measuring the features of %d rows.", len(inputs))
        made = {
            PRETRAINED: frozen_vectors(model, inputs, place_, streams),
            "untrained": None if twin is None else frozen_vectors(twin, inputs, place_, streams),
            "pixels": pixel_vectors(model, inputs, streams),
        }
        held[streams] = {name: one for name, one in made.items() if one is not None}
    evidence, found = [], []
    for one in asked:
        features = {name: all_rows[one.question.rows] for name, all_rows in held[one.streams].items()}
        found.append(features)
        evidence.append(
            collect(one.question, features, column=one.column, size=one.size, left_out=one.left_out, seed=seed)
        )
    return evidence, found


def _moved(
    model: Model,
    one: _Asked,
    inputs: Sequence[Inputs],
    features: dict[str, Tensor],
    place_: torch.device,
    seed: int,
) -> Drift | None:
    chosen = [inputs[row] for row in one.question.rows.tolist()]
    before, unrelated = features[PRETRAINED], features.get("untrained")
    return drift(model, chosen, one.question, before, unrelated, place_, one.streams, seed=seed)


def _advice(
    model: Model,
    table: Table,
    measured: int,
    evidence: Sequence[TaskEvidence],
    placements: dict[str, Placement],
    hardest: int,
    moved: Drift | None,
    seed: int,
    seconds: float,
) -> Advice:
    decides = evidence[hardest]
    placement = placements[decides.task]
    rule = rule_of(placement)
    settings, own, notes = {"epochs": rule.budget.epochs(len(table)), **rule.settings}, dict(rule.own), []
    if "augmentation" in settings and (why := _unvaried(model)) is not None:
        del settings["augmentation"]
        notes.append(f"No augmentation is advised, since {why}.")
    if "stages" in own:
        own["stages"] = min(own["stages"], *(len(outline.units()) for outline in outlines(model).values()))
    near = [f"{size} and {likeness}: {RULES[size, likeness].method}" for size, likeness in placement.neighbours()]
    return Advice(
        backbone=tuple(entry.backbone.reference for entry in model.spec.streams.values()),
        source=table.source,
        rows=len(table),
        measured=measured,
        evidence=tuple(evidence),
        placements=placements,
        decided_by=decides.task,
        quadrant=placement.quadrant,
        method=rule.method,
        own=own,
        settings=settings,
        reason=rule.reason,
        near=tuple(near),
        drift=moved,
        warnings=(*rule.warnings, *notes, *_warnings(model, evidence, placements)),
        seed=seed,
        seconds=seconds,
    )


def _unvaried(model: Model) -> str | None:
    """Say why training views cannot be made; None if they can."""
    pictures = [one for one in model.preparers().values() if one.modality == "image"]
    if not pictures:
        return "there are no pictures to vary"
    if any(one.recipe is None for one in pictures):
        return "the backbone prepares pictures by its library's own processor"
    return None


def _warnings(model: Model, evidence: Sequence[TaskEvidence], placements: dict[str, Placement]) -> list[str]:
    told = []
    for stream, entry in model.spec.streams.items():
        if entry.backbone.weights is None and entry.shares is None:
            told.append(f"The backbone of {stream} has random weights, so the advice is for a backbone of no use.")
    for one in evidence:
        if one.left_out:
            shown = ", ".join(one.left_out[:8]) + (", …" if len(one.left_out) > 8 else "")
            told.append(f"{one.task}: too few rows to measure, so left out of the scores: {shown}.")
        if one.size.imbalance is not None and one.size.imbalance >= IMBALANCED:
            told.append(
                f"{one.task}: {one.size.imbalance:.0f} rows of the commonest class to each of the rarest; "
                "class_weights='balanced' in its head makes them weigh alike."
            )
        if (one.neighbours_gain >= 0.5) != (placements[one.task].similarity == "similar"):
            told.append(
                f"{one.task}: nearest neighbours, with a gain of {one.neighbours_gain:.2f}, place it on the other "
                "side; the linear model decides, since it is what a head on frozen features is."
            )
    quadrants = {placement.quadrant for placement in placements.values()}
    if len(quadrants) > 1:
        where = ", ".join(f"{task} {placement.quadrant}" for task, placement in placements.items())
        told.append(f"The tasks lie apart ({where}); the one that pretraining helps least decides.")
    return told
