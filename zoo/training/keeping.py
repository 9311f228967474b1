"""What is refused of a run on kept features before any data is read."""

from __future__ import annotations

import torch

from zoo.contracts.method import Plan
from zoo.errors import ConfigError
from zoo.model import Model
from zoo.training.features.evicting import cache_limit
from zoo.training.features.flat import storable
from zoo.training.features.passes import check_lowered
from zoo.training.linear.layers import check_linear
from zoo.training.planning.groups import HEADS
from zoo.training.planning.settings import Settings

__all__ = ["check_kept"]


def check_kept(model: Model, plan: Plan, run: Settings, place: torch.device) -> None:
    """Refuse settings of kept features that this run cannot follow.

    Raises:
        ConfigError: If ``feature_precision`` or ``cached_views`` has nothing to act on, the processor lacks bfloat16,
            ``solver`` is ``lbfgs`` and a backbone trains or a head is not linear, or ``$ZOO_CACHE_LIMIT`` is no size.
    """
    cache_limit()
    trained = plan.stages() - plan.never_trained()
    if run.feature_precision == "bf16":
        check_lowered(place)
        if run.augmentation is not None and run.cached_views is None:
            raise ConfigError("feature_precision='bf16' is of what is kept, and an augmentation keeps nothing unless "
                              "cached_views says how many views.")  # fmt: skip
        if not plan.never_trained() - {HEADS}:
            raise ConfigError("feature_precision='bf16' is of stages that never train, and this method trains all.")
    if run.cached_views is not None and not plan.never_trained() - {HEADS}:
        raise ConfigError("cached_views is of stages that never train, and this method trains all; leave it out.")
    if run.solver != "lbfgs":
        return
    if trained != {HEADS}:
        raise ConfigError(
            "solver='lbfgs' is for heads on backbones that rest, and this method trains a backbone, too; use the "
            "method feature_extraction, or solver='sgd'."
        )
    if not storable(model):
        raise ConfigError("solver='lbfgs' needs features that are kept, and those of texts and sounds are not.")
    check_linear(model)
