"""An objective before its run: whether it goes with the rest of what was asked for, and its look at the rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from zoo.contracts.method import Plan
from zoo.contracts.objective import Objective
from zoo.data import Table
from zoo.errors import ConfigError
from zoo.model import Model
from zoo.training.planning.settings import Settings
from zoo.training.ranks import world_size
from zoo.training.rows.asked import RowsToSee

__all__ = ["check_objective", "look"]


def check_objective(
    objective: Objective | None, method: str, model: Model, plan: Plan, run: Settings, *, unlabelled: bool
) -> None:
    """Refuse what does not go together, before any data is read.

    Args:
        objective: What the method trains beside the heads' losses; None for these alone.
        method: The method's name.
        model: The model.
        plan: What trains when.
        run: The user's settings.
        unlabelled: Whether there are rows without labels.

    Raises:
        ConfigError: If rows without labels are missing, or there for nothing; or a setting does not go with the method.
    """
    needs = objective is not None and bool(objective.unlabelled_views)
    if needs and not unlabelled:
        raise ConfigError(f"The method {method!r} learns from rows without labels; pass unlabelled=….")
    if unlabelled and not needs:
        raise ConfigError(f"The method {method!r} does not look at rows without labels; leave unlabelled=… out.")
    if objective is None:
        return
    several = world_size() > 1
    ordered = (several or run.sampling is not None) and objective.order({}, run.seed) is not None
    for what, asked in {
        "mixup and cutmix change": run.mixing is not None,
        "solver='lbfgs' knows nothing of": run.solver == "lbfgs",
        "sampling draws rows otherwise than": run.sampling is not None and ordered,
        "augmentation varies rows that are no part of": run.augmentation is not None and not objective.passes,
        "cached_views keep features, and there are none in": run.cached_views is not None and objective.live,
    }.items():
        if asked:
            raise ConfigError(f"{what} what the method {method!r} trains; leave that out.")
    if objective.batch_size not in (None, run.batch_size):
        raise ConfigError(
            f"The method {method!r}, set like this, needs batches of {objective.batch_size} rows, and they are to have "
            f"{run.batch_size}; pass batch_size={objective.batch_size}."
        )
    if not objective.labelled:
        said = [what for what in ("patience", "select", "sampling", "shots") if getattr(run, what) is not None]
        if said:
            raise ConfigError(f"The method {method!r} uses no labels to judge epochs by; leave {said[0]} out.")
        if plan.patience is not None:
            raise ConfigError(f"The method {method!r} uses no labels, and its plan goes by validation values.")
    if several and ordered:
        raise ConfigError(f"The method {method!r} draws its rows itself, which several processes cannot divide.")


def look(
    objective: Objective,
    model: Model,
    table: Table,
    targets: Mapping[str, Any],
    unlabelled: Table | None,
    run: Settings,
    place: torch.device,
    columns: Mapping[str, str],
) -> None:
    """Let an objective look at the training rows before the first step."""
    rows = RowsToSee(
        model, objective, table, targets, unlabelled,
        columns=columns, fixed=run.augmentation is None, batch_size=run.batch_size, place=place,
    )  # fmt: skip
    model.eval().to(place)
    objective.to(place)
    objective.begin(model, rows)
