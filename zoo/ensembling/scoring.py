"""Weights of members from what their bundles say of them, where that can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo.model import Model

__all__ = ["weights_from_scores"]


def weights_from_scores(members: Mapping[str, Model]) -> dict[str, tuple[float, ...]]:
    """Weigh members by their scores on the validation rows that they were all chosen on.

    Args:
        members: Member name to model, with the provenance that ``zoo.fit`` gave it.

    Returns:
        Task name to a weight for each member: the task's deciding metric where more is better, and its inverse square
        where less is, as errors of that variance would have it. Without the tasks that not all members have a score
        of; empty where the members were fitted on different data.
    """
    models = list(members.values())
    data = [model.provenance.get("data") for model in models]
    if not data[0] or any(one != data[0] for one in data):
        return {}
    found = {}
    for task, kind in models[0].tasks().items():
        metric, more = kind.best_metric
        scores = [_score(model.provenance, task, metric) for model in models]
        known = [score for score in scores if score is not None and score > 0]
        if len(known) == len(models):
            found[task] = tuple(score if more else score**-2 for score in known)
    return found


def _score(provenance: Mapping[str, Any], task: str, metric: str) -> float | None:
    metrics = provenance.get("metrics")
    validation = metrics.get("validation") if isinstance(metrics, Mapping) else None
    of_task = validation.get(task) if isinstance(validation, Mapping) else None
    score = of_task.get(metric) if isinstance(of_task, Mapping) else None
    return float(score) if isinstance(score, (int, float)) and not isinstance(score, bool) else None
