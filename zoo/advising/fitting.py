"""The face of ``zoo.fit``: ``method="auto"`` is advised first, every other method goes straight to training."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from functools import wraps
from typing import Any, ParamSpec

from zoo.advising import AUTO
from zoo.advising.making import advise
from zoo.errors import ConfigError
from zoo.model import Model
from zoo.training import fitting
from zoo.training.judging.history import History
from zoo.training.ranks import world_size
from zoo.training.rows.tables import read_for

__all__ = ["fit"]

log = logging.getLogger("zoo")

P = ParamSpec("P")


def _advised(train: Callable[P, History]) -> Callable[P, History]:
    """Let training take ``method="auto"``; what the caller sets goes over what is advised."""
    names = inspect.signature(train)

    @wraps(train)
    def fit(*args: P.args, **kwargs: P.kwargs) -> History:
        given: dict[str, Any] = dict(kwargs)
        if given.get("method") != AUTO:
            return train(*args, **kwargs)
        if world_size() > 1:
            raise ConfigError(
                "method='auto' measures in one process, and several were started; run zoo advise first, and train with "
                "the method that it names."
            )
        asked = names.bind(*args, **kwargs).arguments
        model: Model = asked["model"]
        common = {name: given[name] for name in ("device", "seed", "strict") if name in given}
        table = read_for(model, asked["data"], strict=common.get("strict", False))
        advice = advise(model, table, probe=False, **common)
        del given["method"]
        for name in ("model", "data"):
            given.pop(name, None)
        advised = advice.fit()
        if given.get("validation") == 0:
            advised.pop("patience", None)  # there is nothing by which an epoch could be better
        chosen = {**advised, **given}
        yours = [name for name in advised if name in given]
        log.info("Advised, since the data is %s (%s): %s.", advice.quadrant, advice.reason, _told(advised))
        if yours:
            log.info("Yours go over it: %s.", _told({name: given[name] for name in yours}))
        run: Callable[..., History] = train
        history = run(model, table, **chosen)
        followed = {name: _plain(chosen[name]) for name in advised}
        history.advice = {"advised": advice.as_json(), "chosen": followed}
        model.provenance = {**model.provenance, "advice": _short(history.advice)}
        return history

    return fit


fit = _advised(fitting.fit)


def _plain(value: Any) -> Any:
    """Write a setting as JSON has it."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _told(settings: dict[str, Any]) -> str:
    method = settings.get("method")
    rest = ", ".join(f"{name} {value}" for name, value in settings.items() if name != "method")
    return f"{method} with {rest}" if method is not None else rest


def _short(advice: dict[str, Any]) -> dict[str, Any]:
    """Give what a bundle keeps of the advice; where the data lies on the user's machine stays out of it."""
    advised = advice["advised"]
    kept = ("quadrant", "decided_by", "method", "own", "settings", "reason", "near", "measured", "seed", "placements")
    return {"advised": {name: advised[name] for name in kept}, "chosen": advice["chosen"]}
