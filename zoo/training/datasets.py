"""The data sets of a run: pictures, training views of them, or what frozen stages gave, computed once."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.contracts.method import Plan
from zoo.contracts.objective import Objective
from zoo.data import Inputs, Table, batched
from zoo.model import Model
from zoo.training.features.differences import difference
from zoo.training.features.evicting import cache_limit
from zoo.training.features.flat import storable
from zoo.training.features.passes import PrefixPass, WholePass, inputs_by_stream
from zoo.training.features.prefixes import NoPrefix, find_prefix, frozen_below
from zoo.training.features.replay import Prefix
from zoo.training.features.store import FeatureStore, Prepare
from zoo.training.judging.history import History
from zoo.training.planning.groups import HEADS
from zoo.training.planning.settings import Settings
from zoo.training.rows.asked import AskedRows
from zoo.training.rows.batches import FeatureRows, Row, SampleRows, ViewRows, rows_of, view_seed
from zoo.training.rows.masks import Targets

__all__ = ["make_datasets", "prefixes_of"]

log = logging.getLogger("zoo")

TRIED = 4
"""Samples on which a prefix is tried."""


def make_datasets(
    model: Model,
    plan: Plan,
    parts: Mapping[str, Table],
    targets: Mapping[str, Mapping[str, Targets]],
    history: History,
    place: torch.device,
    run: Settings,
    *,
    objective: Objective | None = None,
    unlabelled: Table | None = None,
) -> dict[str, Dataset[Row]]:
    """Make the data sets: what never trains is computed once for each picture, else pictures are given.

    Where the run has an objective that needs pictures, they are given, with what it asks for.
    """
    rests = plan.stages() - plan.never_trained() == {HEADS}
    live = objective is not None and objective.live
    through = None if live else _through(model, plan, parts, place, run, rests=rests)
    views = None
    if run.augmentation is not None:
        views = ViewRows(model, parts["train"], targets["train"], run.augmentation, run.seed)
    if through is None:
        made: dict[str, Dataset[Row]] = {part: SampleRows(model, rows, targets[part]) for part, rows in parts.items()}
        if views is not None:
            made["train"] = views
        if objective is not None and live:
            made["train"] = AskedRows(
                model, made["train"], parts["train"], objective, unlabelled, run.augmentation, run.seed
            )
        return made
    prefixes = through.prefixes if isinstance(through, PrefixPass) else {}
    history.cached_features = rests
    history.cached_prefix = {stream: list(prefix.stages) for stream, prefix in prefixes.items()}
    samples = {part: rows_of(model, rows) for part, rows in parts.items()}
    if run.feature_precision == "bf16":
        history.feature_difference = difference(model, through, samples["train"], place)
        log.info("Features in bf16 differ from those in fp32 by %.2g of the largest.", history.feature_difference)
    plain = FeatureStore(model, through=through, device=place.type)
    once = [row for part, rows in samples.items() if views is None or part != "train" for row in rows]
    every = plain.get(once, device=place) if once else None
    datasets: dict[str, Dataset[Row]] = {}
    start = 0
    for part, rows in samples.items():
        if views is not None and part == "train":
            found = [_view(model, through, rows, views, number, place, run) for number in range(run.cached_views or 1)]
            datasets[part] = FeatureRows(found, targets[part], prefixes=prefixes, views=views)
            continue
        assert every is not None
        chosen = every.select(range(start, start + len(rows)))
        datasets[part] = FeatureRows([chosen], targets[part], prefixes=prefixes)
        start += len(rows)
    return datasets


def prefixes_of(datasets: Mapping[str, Dataset[Row]]) -> dict[str, Prefix]:
    """Give the prefixes whose outputs data sets have in the place of inputs."""
    return {s: p for rows in datasets.values() if isinstance(rows, FeatureRows) for s, p in rows.prefixes.items()}


def _view(
    model: Model,
    through: WholePass | PrefixPass,
    rows: Sequence[Inputs],
    views: ViewRows,
    number: int,
    place: torch.device,
    run: Settings,
) -> Any:
    """Give the features of one view of each training row, as a live run sees it in the epoch of that number."""
    assert run.augmentation is not None
    seeds = [str(view_seed(run.seed, number, row)) for row in range(len(rows))]
    by = {lib: version(lib) for lib in ("torchvision", "pillow", "torch")}
    policy = {"augmentation": asdict(run.augmentation), "by": by}
    store = FeatureStore(model, through=through, device=place.type, views=json.dumps(policy, sort_keys=True))
    views.epoch = number
    prepare: Prepare = lambda wanted, pool: _prepared(model, views, wanted)  # noqa: E731
    return store.get(rows, device=place, marks=seeds, prepare=prepare)


def _prepared(model: Model, views: ViewRows, wanted: Sequence[int]) -> dict[str, Any]:
    """Prepare views one after the other: their seeds borrow the global generator."""
    made = [views[row]["inputs"] for row in wanted]
    return batched(model.preparers(), {key: [one[key] for one in made] for key in made[0]})


def _through(
    model: Model, plan: Plan, parts: Mapping[str, Table], place: torch.device, run: Settings, *, rests: bool
) -> WholePass | PrefixPass | None:
    """Find what can be computed once; None where all of it runs live."""
    low = run.feature_precision == "bf16"
    if run.mixing is not None:
        if rests:
            log.info("With mixup or cutmix no features are kept: the backbone runs on new mixtures in each step.")
        return None
    if run.augmentation is not None and run.cached_views is None:
        if rests:
            log.info("With an augmentation no features are kept: the backbone runs on new views in each epoch.")
        return None
    if rests:
        return WholePass(model, lowered=low) if storable(model) else None
    trained = plan.stages() - plan.never_trained()
    below = {}
    for stream, backbone in model.backbones.items():
        names = tuple(stage.name for stage in backbone.spec.stages)
        below[stream] = frozen_below(names, frozenset(n for n in names if f"{stream}.{n}" in trained))
    if not any(below.values()):
        return None
    try:
        if run.compile:
            raise NoPrefix("compile=True compiles whole backbones")
        prefixes = _prefixes(model, below, parts, place)
        rows = sum(len(table) * ((run.cached_views or 1) if part == "train" else 1) for part, table in parts.items())
        _check_room(sum(prefix.row_bytes for prefix in prefixes.values()) // (2 if low else 1) * rows)
    except NoPrefix as reason:
        log.info("The frozen stages run live in each epoch: %s.", str(reason).rstrip("."))
        return None
    told = ", ".join(f"{stream} up to {prefix.stages[-1]}" for stream, prefix in prefixes.items())
    log.info("What never trains is computed once for each picture: %s.", told)
    return PrefixPass(model, prefixes, lowered=low)


def _prefixes(
    model: Model, below: Mapping[str, tuple[str, ...]], parts: Mapping[str, Table], place: torch.device
) -> dict[str, Prefix]:
    """Find the prefix of every stream; raises NoPrefix if one has none."""
    for stream, entry in model.spec.streams.items():
        if entry.shares is not None or model.spec.owner(stream) != stream:
            raise NoPrefix("streams share a backbone")
        if entry.backbone.modality != "image" or len(entry.backbone.inputs) != 1:
            raise NoPrefix(f"the stream {stream} has inputs whose length varies")
        if not below[stream]:
            raise NoPrefix(f"the stream {stream} trains from its first stage on")
    preparers = model.preparers()
    if any(preparer.optional for preparer in preparers.values()):
        raise NoPrefix("samples may lack an input")
    rows = rows_of(model, parts["train"])[:TRIED]
    with ThreadPoolExecutor(max_workers=4) as pool:
        seen = inputs_by_stream(model, model.preprocess(rows, pool))
    found = {}
    model.to(place)
    for stream, stages in below.items():
        if not isinstance(seen[stream], Tensor):
            raise NoPrefix(f"the stream {stream} takes more than one tensor")
        found[stream] = find_prefix(model, stream, stages, seen[stream].to(place))
    return found


def _check_room(size: int) -> None:
    if size > (limit := cache_limit()):
        raise NoPrefix(
            f"what they give would take {size / 1e9:.1f} GB, and ZOO_CACHE_LIMIT lets all features have "
            f"{limit / 1e9:.1f} GB"
        )
