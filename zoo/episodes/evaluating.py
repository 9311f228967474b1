"""``zoo.evaluate_episodes``: accuracy on new classes from a few rows of each, over many episodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.advising.vectors import frozen_vectors, streams_of
from zoo.contracts.head import Label
from zoo.data import Table
from zoo.ensembling.ensemble import Ensemble
from zoo.episodes.classifying import CLASSIFIERS
from zoo.errors import ConfigError, DataError, UnknownName, nearest
from zoo.model import Model
from zoo.training.judging.evaluation import part_of, pick_device
from zoo.training.rows.batches import model_inputs
from zoo.training.rows.tables import read_for
from zoo.training.rows.targets import columns_of, labels_of

__all__ = ["EpisodeScores", "draw_episodes", "evaluate_episodes"]

AT_ONCE = 50
"""Episodes that are classified at once."""
NORMAL = 1.96
"""Standard errors to each side that hold 95 % of a normal distribution."""


@dataclass(frozen=True, slots=True)
class EpisodeScores:
    """What came of episodes.

    Args:
        accuracy: Mean share of queries that are right, 0 to 1.
        interval: Half the width of its 95 % confidence interval, from the spread over episodes.
        episodes: How many there were.
        ways: Classes of each.
        shots: Rows of each class that were learnt from.
        queries: Rows of each class that were told apart.
        classifier: What learnt.
        classes: Classes with enough rows, of which episodes drew.
    """

    accuracy: float
    interval: float
    episodes: int
    ways: int
    shots: int
    queries: int
    classifier: str
    classes: int

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{100 * self.accuracy:.2f} ± {100 * self.interval:.2f} %"


def evaluate_episodes(
    model: Model | Ensemble,
    data: Table | str | Path | Any,
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    episodes: int = 600,
    classifier: str = "centroid",
    task: str | None = None,
    split: str | None = None,
    seed: int = 0,
    device: str = "auto",
    strict: bool = False,
) -> EpisodeScores:
    """Measure how well a model's features tell classes apart from a few rows of each, over many drawn episodes.

    Each episode draws classes, rows of each to learn from, and other rows to tell apart. The labels need not be classes
    that the head knows: only what the head reads of the backbones counts. Backbones rest; every row goes through them
    once, and its features are kept for later calls. The same seed draws the same episodes for any model.

    Args:
        model: The model.
        data: As for ``zoo.fit``; rows without a label are left out.
        ways: Classes of an episode, 2 or more.
        shots: Rows of each class to learn from, 1 or more.
        queries: Further rows of each class, 1 or more.
        episodes: How many are drawn, 2 or more.
        classifier: ``centroid``, ``cosine`` or ``logistic``.
        task: The task whose label column and streams count; not needed where there is one.
        split: Only the rows of this part: ``train``, ``validation`` or ``test``.
        seed: Seed of the episodes, 0 or more.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        strict: Whether an unreadable picture is an error.

    Raises:
        ConfigError: If a number cannot be used, or the task must be named.
        UnknownName: If there is no such classifier or task.
        DataError: If there are fewer classes with enough rows than an episode has, or the labels are no classes.

    Source:
        Snell et al., "Prototypical Networks for Few-shot Learning", 2017, arXiv:1703.05175, section 3: 600 episodes of
        15 queries a class, with 95 % confidence intervals. There the classes of a test are apart from those that a
        network was trained on; ours takes the classes of the data.
    """
    least = {
        "ways": (ways, 2),
        "shots": (shots, 1),
        "queries": (queries, 1),
        "episodes": (episodes, 2),
        "seed": (seed, 0),
    }
    for what, (value, low) in least.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ConfigError(f"{what} must be a whole number, {low} or more, got {value!r}.")
    if classifier not in CLASSIFIERS:
        raise UnknownName(f"No episode classifier is called {classifier!r}; there are {', '.join(CLASSIFIERS)}.")
    if not isinstance(model, Model):
        raise ConfigError(f"Episodes are of one model's features, got {type(model).__name__}; pass one of its members.")
    named = _task(model, task)
    place = pick_device(device)
    table = read_for(model, data, strict=strict)
    table = table if split is None else part_of(table, split)
    column = columns_of(model, table)[named]
    rows = _by_class(labels_of(table.column(column)), table.source, column)
    drawn, classes = draw_episodes(rows, ways, shots + queries, episodes, seed, table.source)
    inputs = model_inputs(model, table)
    given = [{name: samples[row] for name, samples in inputs.items()} for row in range(len(table))]
    vectors = frozen_vectors(model, given, place, streams_of(model, named)).cpu()
    right = torch.arange(ways).repeat_interleave(queries)
    found = []
    for some in drawn.split(AT_ONCE):
        support, asked = vectors[some].split([shots, queries], dim=2)
        logits = CLASSIFIERS[classifier](support, asked.flatten(1, 2))
        found.append((logits.argmax(dim=-1) == right).double().mean(dim=1))
    each = torch.cat(found)
    interval = NORMAL * float(each.std()) / math.sqrt(episodes)
    return EpisodeScores(float(each.mean()), interval, episodes, ways, shots, queries, classifier, classes)


def draw_episodes(
    rows: Sequence[Tensor], ways: int, each: int, episodes: int, seed: int, source: str
) -> tuple[Tensor, int]:
    """Draw classes, and rows of each, without putting any back within an episode.

    Args:
        rows: Row numbers of each class.
        ways: Classes of an episode.
        each: Rows of a class in an episode.
        episodes: How many are drawn.
        seed: Seed of the draws.
        source: Where the rows are from, for the message.

    Returns:
        Row numbers, ``(episodes, ways, each)`` int64, and how many classes have enough rows.

    Raises:
        DataError: If those are too few.
    """
    fit = [one for one in rows if len(one) >= each]
    if len(fit) < ways:
        raise DataError(
            f"{source}: an episode has {ways} classes with {each} rows each (shots and queries), and {len(fit)} of "
            f"{len(rows)} classes have as many; set ways, shots or queries lower."
        )
    generator = torch.Generator().manual_seed(seed)

    def episode() -> Tensor:
        chosen = torch.randperm(len(fit), generator=generator)[:ways].tolist()
        return torch.stack([fit[k][torch.randperm(len(fit[k]), generator=generator)[:each]] for k in chosen])

    return torch.stack([episode() for _ in range(episodes)]), len(fit)


def _task(model: Model, asked: str | None) -> str:
    known = list(model.tasks())
    if asked is None and len(known) == 1:
        return known[0]
    if asked is None:
        raise ConfigError(f"The model has the tasks {', '.join(known) or 'none'}; say whose labels count by task=….")
    if asked not in known:
        raise UnknownName(f"No task is called {asked!r}; there are {', '.join(nearest(asked, known) or known)}.")
    return asked


def _by_class(labels: Sequence[Label], source: str, column: str) -> list[Tensor]:
    """Give the row numbers of each class, in the order of their names."""
    found: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        if label is None:
            continue
        if not isinstance(label, (str, int)) and not (isinstance(label, float) and label.is_integer()):
            raise DataError(f"{source}: an episode needs one class a row, and the column {column!r} has {label!r:.40}.")
        found.setdefault(str(label), []).append(row)
    return [torch.tensor(found[name]) for name in sorted(found)]
