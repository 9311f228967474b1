"""Trying candidates out: held against the limits, trained shortly, and the best trained longer."""

from __future__ import annotations

import inspect
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from zoo.assembly import build, plan_model
from zoo.bundle.loading import load
from zoo.data import Table
from zoo.errors import ConfigError, TrainingError
from zoo.model import Model
from zoo.searching.choices import Range, label
from zoo.searching.costs import COSTS, Cost, Limits, cost_of
from zoo.searching.proposing import Proposer, seed_of
from zoo.searching.record import Record, Trial
from zoo.searching.result import SearchResult
from zoo.searching.spaces import Candidate, Space
from zoo.spec import HeadSpec
from zoo.training.fitting import fit
from zoo.training.judging.history import History
from zoo.training.rows.heads import infer_heads

__all__ = ["PATIENCE", "Study", "plain"]

log = logging.getLogger("zoo")

PATIENCE = 200
"""Candidates in a row that may be above a limit, or known already, before the space counts as exhausted."""


def plain(value: Any) -> Any:
    """Give a setting as plain JSON values, or as text if it is none."""
    try:
        label(value)
    except (TypeError, ValueError):
        return repr(value)
    return value


@dataclass(frozen=True, slots=True)
class Study:
    """A search's arguments, and what is done with a candidate.

    Args:
        space: The space.
        table: The rows, each in a part.
        limits: What a candidate may cost.
        minimize: The cost that is to be small beside the score; None for none.
        epochs: Epochs of a trial.
        seed: The search's.
        settings: Settings of ``zoo.fit`` for all trials.
    """

    space: Space
    table: Table
    limits: Limits
    minimize: str | None
    epochs: int
    seed: int
    settings: Mapping[str, Any]

    def heads(self, candidate: Candidate) -> list[HeadSpec]:
        """Describe the heads of a candidate, with the data's classes."""
        return infer_heads(self.table, heads=list(candidate.heads))

    def build(self, candidate: Candidate, weights: str | None, seed: int) -> Model:
        """Build a candidate."""
        return build(candidate.reference, self.heads(candidate), weights=weights, seed=seed)

    def cost(self, candidate: Candidate) -> Cost:
        """Measure what a candidate costs."""
        spec = plan_model(candidate.reference, self.heads(candidate))
        timed = self.minimize == "latency"
        return cost_of(spec, lambda: self.build(candidate, None, self.seed), limits=self.limits, timed=timed)

    def values(self, trial: Trial) -> list[float] | None:
        """Give what the sampler is told of a trial."""
        if trial.score is None:
            return None
        return [trial.score, *([] if self.minimize is None else [float(asdict(trial.cost)[self.minimize])])]

    def told(self, candidate: Candidate) -> dict[str, Any]:
        """Give the settings of a candidate's training; the search's own go over the space's."""
        own = dict(candidate.fit)
        if self.settings.get("method", own["method"]) != own["method"]:  # its settings are of another method
            own = {key: value for key, value in own.items() if key in inspect.signature(fit).parameters}
        return {**own, **self.settings}

    def train(self, candidate: Candidate, *, epochs: int, seed: int, **more: Any) -> tuple[Model, History]:
        """Build a candidate and train it."""
        model = self.build(candidate, candidate.weights, seed)
        return model, fit(model, self.table, **{**self.told(candidate), "epochs": epochs, "seed": seed, **more})

    def go(self, record: Record, proposer: Proposer, first: Sequence[Mapping[str, Any]], trials: int) -> None:
        """Propose, hold against the limits, and train, until there are enough trials."""
        known: dict[str, Trial] = {}
        seen = [one for one in record.trials if one.state != "screened"]
        for one in seen:
            candidate = proposer.repeat(one.picked, self.values(one), one.kept)
            if one.state in ("trained", "failed"):
                known[candidate.key] = one
        fruitless = _fruitless(seen)
        while sum(one.state == "trained" for one in record.trials) < trials:
            if fruitless >= PATIENCE:
                _give_up(record, self.limits)
                return
            number = len(record.trials)
            place = len([one for one in record.trials if one.state != "screened"])
            candidate, picked = proposer.propose(first[place] if place < len(first) else None)
            trial = self._looked_at(candidate, picked, number, known)
            kept = proposer.tell(self.values(trial))
            trial = replace(trial, kept=kept)
            record.add(trial)
            fruitless = 0 if trial.state == "trained" else fruitless + 1
            if trial.state in ("trained", "failed"):
                known[candidate.key] = trial
                told = "failed" if trial.score is None else f"{trial.score:.4g}"
                log.info("Trial %d: %s, %s.", number, trial.reference, told)

    def _looked_at(
        self, candidate: Candidate, picked: Mapping[str, Any], number: int, known: Mapping[str, Trial]
    ) -> Trial:
        if candidate.key in known:
            return replace(known[candidate.key], number=number, state="repeated", picked=picked, seconds=0.0)
        trial = Trial(
            number=number, state="over", reference=candidate.reference, heads=candidate.heads,
            fit=self.told(candidate) | {}, picked=picked, cost=self.cost(candidate),
        )  # fmt: skip
        trial = replace(trial, fit={name: plain(value) for name, value in trial.fit.items()})
        if self.limits.broken(trial.cost):
            return trial
        start, seed = time.monotonic(), seed_of(self.seed, "training", number)
        try:
            _, history = self.train(candidate, epochs=self.epochs, seed=seed)
        except TrainingError as error:
            log.info("Trial %d: %s", number, error)
            return replace(trial, state="failed", seed=seed, seconds=time.monotonic() - start)
        score = max(row.score for row in history.epochs if row.score is not None)
        metrics = {f"{task}/{name}": float(v) for task, of in history.validation.items() for name, v in of.items()}
        seconds = round(time.monotonic() - start, 2)
        return replace(trial, state="trained", score=float(score), metrics=metrics, seed=seed, seconds=seconds)

    def finish(self, record: Record, epochs: int) -> SearchResult:
        """Train the best longer, and keep it as a bundle; one that is there already is loaded."""
        best = max((one for one in record.trials if one.state == "trained"), key=lambda one: (one.score, -one.number))
        path, runs = record.folder / "best", record.folder / f".best-{best.number}-{epochs}"
        told = {"trial": best.number, "epochs": epochs, "score": best.score, "folder": record.folder.name}
        if path.exists():
            found = load(path)
            assert isinstance(found, Model)
            if found.provenance.get("search") == told:
                return SearchResult(record.folder, tuple(record.trials), best, found, found.provenance["metrics"])
        candidate = self.space.draw(_picked(best.picked))
        model, history = self.train(
            candidate,
            epochs=epochs,
            seed=seed_of(self.seed, "training", best.number),
            checkpoint=runs,
            resume=any(runs.glob("checkpoint-*")),
        )
        model.provenance["search"] = told
        model.save(path, overwrite=True)
        shutil.rmtree(runs, ignore_errors=True)
        metrics = {"validation": history.validation, "test": history.test}
        return SearchResult(record.folder, tuple(record.trials), best, model, metrics)


def _picked(picked: Mapping[str, Any]) -> Any:
    """Give what picks as was picked before."""

    def pick(name: str, choice: Any) -> Any:
        if isinstance(choice, Range):
            return picked[name]
        return choice[0] if len(choice) == 1 else choice[[label(one) for one in choice].index(picked[name])]

    return pick


def _fruitless(seen: Sequence[Trial]) -> int:
    """Count the last candidates of which none was trained."""
    count = 0
    for one in reversed(seen):
        if one.state == "trained":
            break
        count += 1
    return count


def _give_up(record: Record, limits: Limits) -> None:
    """End a search that finds nothing more: in peace if something was trained.

    Raises:
        ConfigError: If nothing was.
    """
    if any(one.state == "trained" for one in record.trials):
        log.info("The last %d candidates were above a limit or known already; the search ends.", PATIENCE)
        return
    over = [one.cost for one in record.trials if one.state == "over"]
    least = {
        name: min((value for one in over if (value := asdict(one)[name]) is not None), default=None) for name in COSTS
    }
    told = ", ".join(f"{value:,.4g} {name}" for name, value in least.items() if value is not None)
    raise ConfigError(
        f"Of {PATIENCE} candidates none kept the limits {limits}; the least seen were {told}. Raise them."
    )
