"""Prototype: the class whose mean is nearest, from a few samples and without training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.contracts.features import Features
from zoo.contracts.head import HeadContext, Needs
from zoo.errors import CapabilityError, ConfigError
from zoo.spec import HeadSpec
from zoo_heads.labels import MISSING
from zoo_heads.taught import TaughtConfig, TaughtTask

__all__ = ["Prototype", "PrototypeConfig"]

SCALE = 10.0
"""Scale of the cosines where none is set."""


@dataclass(frozen=True, kw_only=True)
class PrototypeConfig(TaughtConfig):
    """Settings of a prototype head.

    Args:
        classes: Names of the classes, 2 or more; None to take them from the training labels.
        distance: ``euclidean`` for minus the squared distance to each class's mean, ``cosine`` for the cosine to it.
        normalize: Whether vectors are scaled to length 1 before the mean is taken and before they are compared.
        scale: What cosines are multiplied by, above 0; None for 10.
    """

    distance: Literal["euclidean", "cosine"] = "euclidean"
    normalize: bool = False
    scale: float | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        TaughtConfig.__post_init__(self)
        if self.distance == "euclidean" and self.scale is not None:
            raise ConfigError("scale is of cosines; set distance='cosine' or leave it out.")
        if self.scale is not None and not self.scale > 0:
            raise ConfigError(f"scale must be above 0, got {self.scale}.")


class Prototype(TaughtTask):
    """The mean of each class's pooled vectors over the training rows; it has no parameters.

    ``zoo.fit`` shows it the training rows before the first epoch and, where something below it trains, after each.

    Shape:
        - pooled: ``(B, pooled_dim)``, any float dtype.
        - output: ``(B, K)`` logits, before softmax: minus squared distances, or scaled cosines.
        - target: ``(B,)`` int64, -100 where missing.

    Raises:
        ConfigError: If ``classes`` is not set when it is built.

    Source:
        Snell et al., "Prototypical Networks for Few-shot Learning", 2017, arXiv:1703.05175, equations 1 and 2. Ours
        takes all training rows for the support set; the method ``few_shot`` trains what is below by the paper's
        episodes, any other by ordinary epochs.
    """

    Config = PrototypeConfig
    summary = "Few-shot: the class whose mean vector over the training rows is nearest; nothing is trained"
    learns = "prototypes"

    def __init__(self, spec: HeadSpec, config: PrototypeConfig, context: HeadContext) -> None:
        super().__init__(spec, config, context)
        width = context.streams[self.stream].pooled_dim
        self.register_buffer("prototypes", torch.zeros(len(self.labels.classes), width))
        self._sums: Tensor | None = None
        self._rows: Tensor | None = None

    @classmethod
    def reads(cls, config: PrototypeConfig) -> Needs:
        """Read the pooled vector."""
        return Needs(pooled=True)

    def learn(self, features: Features, target: Tensor) -> None:
        """Add a batch to the sums of its classes."""
        known = target != MISSING
        given, classes = self._vectors(features)[known].cpu().double(), target[known].cpu()  # not every device has it
        count = len(self.labels.classes)
        sums = given.new_zeros(count, given.shape[1]).index_add_(0, classes, given)
        rows = torch.bincount(classes, minlength=count)
        self._sums = sums if self._sums is None else self._sums + sums
        self._rows = rows if self._rows is None else self._rows + rows

    def learnt(self) -> None:
        """Make the means.

        Raises:
            DataError: If a class has no training row.
        """
        sums, rows = self._sums, self._rows
        self._sums = self._rows = None
        if sums is None or rows is None:
            rows = torch.zeros(len(self.labels.classes), dtype=torch.int64)
        self._check_all(rows)
        assert sums is not None
        self.get_buffer("prototypes").copy_(sums / rows[:, None])
        self.get_buffer("rows").copy_(rows)

    def score(self, features: Features) -> Tensor:
        """Give the logits."""
        given, prototypes = self._vectors(features), self.get_buffer("prototypes")
        if self.config.distance == "cosine":
            cosines = F.linear(F.normalize(given, dim=-1), F.normalize(prototypes.to(given), dim=-1))
            return cosines * (self.config.scale or SCALE)
        exact = torch.promote_types(given.dtype, torch.float32)  # squares of bf16 would tell nothing apart
        mode = "donot_use_mm_for_euclid_dist"
        return -torch.cdist(given.to(exact), prototypes.to(exact), compute_mode=mode).square()

    def _vectors(self, features: Features) -> Tensor:
        if features.pooled is None:
            raise CapabilityError(f"The head {self.spec.name!r} needs the pooled vector, and it was not computed.")
        return F.normalize(features.pooled, dim=-1) if self.config.normalize else features.pooled
