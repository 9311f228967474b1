"""Trackers of experiments, by the engine: their names, and what each needs."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from zoo.errors import ConfigError, PluginError, UnknownName, nearest

__all__ = ["TRACKERS", "check_trackers"]

# tracker -> the modules of which one must be there, and the package to install
TRACKERS: dict[str, tuple[tuple[str, ...], str]] = {
    "clearml": (("clearml",), "clearml"),
    "codecarbon": (("codecarbon",), "codecarbon"),
    "comet_ml": (("comet_ml",), "comet-ml"),
    "dvclive": (("dvclive",), "dvclive"),
    "mlflow": (("mlflow",), "mlflow"),
    "swanlab": (("swanlab",), "swanlab"),
    "tensorboard": (("tensorboard", "tensorboardX"), "tensorboard"),
    "trackio": (("trackio",), "trackio"),
    "wandb": (("wandb",), "wandb"),
}


def check_trackers(given: str | Iterable[str] | None) -> tuple[str, ...]:
    """Read the names of trackers.

    Args:
        given: One name, several, or None for none.

    Raises:
        UnknownName: If there is no such tracker.
        PluginError: If its package is not installed.
        ConfigError: If it is something else.
    """
    if given is None:
        return ()
    names = (given,) if isinstance(given, str) else tuple(given)
    for name in names:
        if not isinstance(name, str):
            raise ConfigError(f"report_to must be names of trackers, got {type(name).__name__}.")
        if name not in TRACKERS:
            near = ", ".join(nearest(name, TRACKERS) or TRACKERS)
            raise UnknownName(f"There is no tracker {name!r}; report_to takes {near}.")
        modules, package = TRACKERS[name]
        if not any(importlib.util.find_spec(module) for module in modules):
            raise PluginError(f"report_to={name!r} needs a package that is not installed: pip install {package}.")
    return names
