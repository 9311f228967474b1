"""The first cut: candidates drawn at random and scored at their random weights, without training."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.data import Table
from zoo.model import Model
from zoo.searching.choices import Range, label, pick_randomly
from zoo.searching.proposing import seed_of
from zoo.searching.record import Record, Trial
from zoo.searching.scores import SCORES, mean_ranks
from zoo.searching.trying import PATIENCE, Study
from zoo.training.rows.batches import Collator, SampleRows

__all__ = ["first_of", "screen"]

_LOOKED_AT = 32
"""Rows by which scores that look at data tell networks apart."""


class _Pooled(nn.Module):
    """A backbone as a network that gives one tensor, as its heads would have it."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.stream = next(iter(model.backbones))
        self.backbone, self.want = model.backbones[self.stream], model.wants[self.stream]

    def forward(self, pictures: Tensor) -> Tensor:
        """Give all that is wanted, flat."""
        found = self.backbone(pictures, self.want)
        parts = [found.pooled, found.tokens, *found.maps.values()]
        return torch.cat([one.flatten(1) for one in parts if one is not None], dim=1)


def screen(run: Study, record: Record, screened: int, names: Sequence[str]) -> None:
    """Score candidates that are drawn at random and keep the limits, without training; none twice."""
    done = [one for one in record.trials if one.state == "screened"]
    if screened == len(done) or len(done) < len(record.trials):  # trials began, so no more was to be found
        return
    before, seen = {one.reference for one in done}, set[str]()
    pictures: Tensor | None = None
    number, misses = len(done), 0
    drawn = random.Random(seed_of(run.seed, "screening", 0))
    draws = 0
    while len(done) < screened and misses < PATIENCE:
        picked: dict[str, Any] = {}
        candidate = run.space.draw(_noted(pick_randomly(drawn), picked))
        draws += 1
        if candidate.reference in seen:
            misses += 1
            continue
        seen.add(candidate.reference)
        if candidate.reference in before:  # drawn again as in the process that was killed
            misses = 0
            continue
        cost = run.cost(candidate)
        if run.limits.broken(cost):
            misses += 1
            continue
        model = run.build(candidate, None, seed_of(run.seed, "scores", draws))
        pictures = _pictures(model, run.table) if pictures is None else pictures
        net = _Pooled(model).eval()
        found = {name: SCORES[name](net, pictures) for name in names}
        trial = Trial(
            number=number, state="screened", reference=candidate.reference, picked=picked, cost=cost, scores=found,
            fit=dict(candidate.fit),
        )  # fmt: skip
        record.add(trial)
        done.append(trial)
        number, misses = number + 1, 0


def _noted(pick: Any, picked: dict[str, Any]) -> Any:
    """Let a pick write down what it picked, as optuna has it."""

    def noting(name: str, choice: Any) -> Any:
        value = pick(name, choice)
        if isinstance(choice, Range):
            picked[name] = value
        elif len(choice) > 1:
            picked[name] = label(value)
        return value

    return noting


def _pictures(model: Model, table: Table) -> Tensor:
    """Give the first training rows as the network takes them."""
    train = [row for row, part in enumerate(table.split or ()) if part == "train"][:_LOOKED_AT]
    rows = SampleRows(model, table.select(train), {})
    batch = Collator(model.preparers())([rows[row] for row in range(len(train))])
    return next(iter(batch["inputs"].values()))


def first_of(record: Record, cut: int) -> list[dict[str, Any]]:
    """Give what is picked for the first trials: the screened ones of the highest ranks."""
    done = [one for one in record.trials if one.state == "screened"]
    ranks = mean_ranks([one.scores for one in done])
    order = sorted(range(len(done)), key=lambda place: (-ranks[place], place))
    return [dict(done[place].picked) for place in order[:cut]]
