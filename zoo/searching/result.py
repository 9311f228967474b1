"""What a search found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zoo.errors import ConfigError, PluginError
from zoo.model import Model
from zoo.searching.costs import COSTS
from zoo.searching.record import Trial

__all__ = ["SearchResult", "pareto"]


def pareto(trials: list[Trial], cost: str) -> list[Trial]:
    """Give the trials that no other beats: none has a higher score at no higher cost; the cheapest first.

    Args:
        trials: Trained ones; those without this cost are left out.
        cost: ``parameters``, ``macs`` or ``latency``.
    """
    priced = [(asdict(one.cost)[cost], one) for one in trials if one.score is not None]
    known = [(price, one) for price, one in priced if price is not None]
    front: list[Trial] = []
    for _, one in sorted(known, key=lambda pair: (pair[0], -(pair[1].score or 0.0), pair[1].number)):
        if not front or (one.score or 0.0) > (front[-1].score or 0.0):
            front.append(one)
    return front


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found.

    Args:
        folder: The study's folder; the bundle of the best is in ``best``.
        trials: All candidates that were looked at, in order.
        best: The one that was trained longer.
        model: Its model, trained longer.
        metrics: What that reached: part of the rows to task to metric to value.
    """

    folder: Path
    trials: tuple[Trial, ...]
    best: Trial
    model: Model
    metrics: dict[str, Any]

    @property
    def trained(self) -> list[Trial]:
        """The trials that were trained."""
        return [one for one in self.trials if one.state == "trained"]

    def front(self, cost: str = "macs") -> list[Trial]:
        """Give the Pareto front of the trained trials: score against a cost, the cheapest first.

        Raises:
            ConfigError: If there is no such cost.
        """
        if cost not in COSTS:
            raise ConfigError(f"cost must be one of {', '.join(COSTS)}, got {cost!r}.")
        return pareto(self.trained, cost)

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return {
            "folder": str(self.folder),
            "best": self.best.as_json(),
            "metrics": self.metrics,
            "trials": [one.as_json() for one in self.trials],
        }

    def plot(self, path: str | Path, cost: str = "macs") -> Path:
        """Draw the trained trials, score over cost, and their Pareto front.

        Args:
            path: The new file; its ending says which kind, such as ``front.png``.
            cost: ``parameters``, ``macs`` or ``latency``.

        Raises:
            PluginError: If matplotlib is not installed; it is in the extra ``plot``.
            ConfigError: If no trial has this cost.
        """
        front = self.front(cost)
        if not front:
            raise ConfigError(f"No trained trial has a {cost} to draw.")
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise PluginError("A picture of the trials needs matplotlib: pip install 'headzoo[plot]'.") from error
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        known = [one for one in self.trained if asdict(one.cost)[cost] is not None]
        axes.scatter(
            [asdict(one.cost)[cost] for one in known], [one.score or 0.0 for one in known], color="0.7", label="tried"
        )
        prices = [asdict(one.cost)[cost] for one in front]
        axes.step(prices, [one.score or 0.0 for one in front], where="post", marker="o", label="Pareto front")
        axes.set_xlabel({"macs": "multiply-accumulates", "latency": "milliseconds"}.get(cost, cost))
        axes.set_ylabel("validation score")
        axes.legend()
        figure.savefig(path)
        return Path(path)
