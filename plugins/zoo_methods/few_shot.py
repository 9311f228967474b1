"""Few-shot: a backbone learns from episodes what makes the rows of a class lie near their mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.data import Sampler

from zoo.contracts.method import Method, Plan, StageState
from zoo.contracts.objective import Batch, Objective, TrainingRows
from zoo.contracts.outline import BackboneOutline
from zoo.errors import CapabilityError, ConfigError, DataError
from zoo_methods.settings import check_count, check_number

if TYPE_CHECKING:
    from zoo.model import Model

__all__ = ["EpisodeRows", "Episodes", "FewShot"]


@dataclass(frozen=True)
class FewShot(Method):
    """Train the backbone by episodes, for a head of the type ``prototype``.

    A step is an episode: ``ways`` classes are drawn, of each ``support`` rows, whose mean vector is the class's
    prototype, and ``queries`` other rows, which are told apart by these prototypes as the head does: minus the squared
    Euclidean distance (or its scaled cosine, where the head says so) through a softmax over the episode's classes, and
    the cross-entropy. ``zoo.fit``'s ``batch_size`` must be ``ways * (support + queries)``. Validation, and the model
    afterwards, take all training rows for the support, as the head always does. Other tasks of the model keep their own
    losses, on the rows that episodes draw.

    Args:
        ways: Classes of an episode, 2 or more.
        support: Rows of each class that make its prototype, 1 or more.
        queries: Further rows of each class that are told apart, 1 or more.
        episodes: Episodes of an epoch, 1 or more; None for as many as the training rows fill, but at least one.
        task: The task whose classes make the episodes; None for the only one that has prototypes.
        backbone_lr_scale: Learning rate of the backbones as a share of the heads', above 0.

    Source:
        Snell et al., "Prototypical Networks for Few-shot Learning", 2017, arXiv:1703.05175, algorithm 1 and equations
        1 and 2. There a network is trained from random weights on classes apart from those that it is tested on, with
        Adam at 1e-3, halved every 2,000 episodes; ours goes on from pretrained weights, with the run's optimizer and
        schedule, and the prototypes of all classes are found anew after each epoch.
    """

    ways: int = 5
    support: int = 5
    queries: int = 15
    episodes: int | None = None
    task: str | None = None
    backbone_lr_scale: float = 0.1

    summary = "The backbone learns by episodes to bring rows of a class near their mean; for prototype heads"
    when = (
        "Many classes with few labelled rows each, and new ones to come, which a prototype head takes without training."
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check_count("ways", self.ways, least=2)
        check_count("support", self.support)
        check_count("queries", self.queries)
        if self.episodes is not None:
            check_count("episodes", self.episodes)
        if self.task is not None and not isinstance(self.task, str):
            raise ConfigError(f"task must be the name of a task, got {self.task!r}.")
        check_number("backbone_lr_scale", self.backbone_lr_scale)

    def objective(self, model: Model, *, seed: int = 0) -> Episodes:
        """Give what is trained on each episode."""
        return Episodes(self, _task(model, self.task))

    def plan(self, streams: Mapping[str, BackboneOutline], *, epochs: int, lr: float) -> Plan:
        """Train every stage in every epoch."""
        low = StageState(trainable=True, lr=lr * self.backbone_lr_scale)
        states = {f"{name}.{stage.name}": low for name, spec in streams.items() for stage in spec.stages}
        return Plan(epochs=({**states, "heads": StageState(trainable=True, lr=lr)},) * epochs)


def _task(model: Model, asked: str | None) -> str:
    """Name the task whose classes make the episodes.

    Raises:
        ConfigError: If no task has prototypes, several have and none is named, or the one that is named has none.
    """
    fit = [name for name, task in model.tasks().items() if task.spec.type == "prototype"]
    told = ", ".join(fit) or "none"
    if asked is None and len(fit) == 1:
        return fit[0]
    if asked is None and fit:
        raise ConfigError(f"The method 'few_shot' must know which task makes the episodes: set task to one of {told}.")
    if asked not in fit:
        which = "the model" if asked is None else f"the task {asked!r}"
        raise ConfigError(
            f"The method 'few_shot' trains what a head of the type prototype tells classes apart by, and {which} has "
            f"none (tasks that have: {told}); build the model with zoo.head('prototype', …)."
        )
    return asked


class Episodes(Objective):
    """The cross-entropy of an episode's queries.

    Args:
        how: The method.
        task: Name of the task whose classes make the episodes.
    """

    def __init__(self, how: FewShot, task: str) -> None:
        super().__init__()
        self.how, self.task = how, task
        self.batch_size = how.ways * (how.support + how.queries)

    def begin(self, model: Model, rows: TrainingRows) -> None:
        """Refuse rows of which no episode can be made.

        Raises:
            DataError: If there are fewer classes with enough rows than an episode has.
        """
        how, counts = self.how, torch.bincount(_known(rows.targets[self.task]))
        fit = int((counts >= how.support + how.queries).sum())
        if fit < how.ways:
            raise DataError(
                f"An episode has {how.ways} classes with {how.support} + {how.queries} training rows each, and of the "
                f"task {self.task!r} {fit} have as many; set ways, support or queries lower, or label more rows."
            )

    def order(self, targets: Mapping[str, Any], seed: int) -> Sampler[int]:
        """Draw episodes, one after the other."""
        target = targets.get(self.task, torch.zeros(0, dtype=torch.int64))
        how = self.how
        return EpisodeRows(target, how.ways, how.support, how.queries, how.episodes, seed)

    def losses(self, model: Model, batch: Batch) -> Mapping[str, Tensor]:
        """Give the cross-entropy of the queries, in nats; other tasks keep their own losses.

        Shape:
            - the episode's rows: by class, support first: ``(ways, support + queries)``.
            - its logits: ``(ways * queries, ways)``.
        """
        task, how = model.tasks()[self.task], self.how
        features = batch.features[task.stream]
        if features.pooled is None:
            raise CapabilityError(f"The task {self.task!r} needs the pooled vector, and it was not computed.")
        by_class = features.pooled.unflatten(0, (how.ways, how.support + how.queries))
        support, queries = by_class.split([how.support, how.queries], dim=1)
        if task.config.normalize:
            support = F.normalize(support, dim=-1)
        prototypes = {"prototypes": support.mean(dim=1)}
        seen = type(features)(pooled=queries.flatten(0, 1))
        logits = functional_call(task, prototypes, ({task.stream: seen},))[self.task]
        right = torch.arange(how.ways, device=logits.device).repeat_interleave(how.queries)
        return {**batch.losses, self.task: task.config.weight * F.cross_entropy(logits, right)}


class EpisodeRows(Sampler[int]):
    """Draws episodes as the seed and the epoch decide: classes, and rows of each, without putting any back.

    Args:
        target: Encoded labels, ``(N,)`` int64, below 0 where missing.
        ways: Classes of an episode.
        support: Rows of each class that make its prototype.
        queries: Further rows of each class.
        episodes: Episodes of an epoch; None for as many as the rows fill, but at least one.
        seed: The run's seed.
    """

    def __init__(self, target: Tensor, ways: int, support: int, queries: int, episodes: int | None, seed: int) -> None:
        self._ways, self._each, self._seed = ways, support + queries, seed
        rows = [torch.nonzero(target == label).flatten() for label in _known(target).unique()]
        self._rows = [one for one in rows if len(one) >= self._each]
        self._episodes = max(1, len(target) // (ways * self._each)) if episodes is None else episodes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Tell which epoch is drawn, from 0; the engine does."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._episodes * self._ways * self._each

    def __iter__(self) -> Iterator[int]:
        drawn = torch.Generator().manual_seed((self._seed * 1_000_003 + self.epoch) % 2**63)
        for _ in range(self._episodes):
            for label in torch.randperm(len(self._rows), generator=drawn)[: self._ways].tolist():
                rows = self._rows[label]
                yield from rows[torch.randperm(len(rows), generator=drawn)[: self._each]].tolist()


def _known(target: Tensor) -> Tensor:
    return target[target >= 0]
