"""What a search tries next: optuna proposes, from what was tried before and a seed of each proposal's own."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from zoo.errors import ConfigError, PluginError, UnknownName, nearest
from zoo.searching.choices import Choice, Range, label
from zoo.searching.spaces import Candidate, Space
from zoo.strict import check_options

__all__ = ["SAMPLERS", "Proposer", "check_sampler", "seed_of"]

# Name -> class of optuna.samplers, and the settings that differ from its own.
SAMPLERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "evolutionary": ("NSGAIISampler", {"population_size": 8}),
    "random": ("RandomSampler", {}),
    "tpe": ("TPESampler", {}),
}


def library() -> ModuleType:
    """Import optuna.

    Raises:
        PluginError: If it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise PluginError("Searches ask optuna, which is not installed: pip install 'headzoo[search]'.") from error
    return optuna


def check_sampler(name: str, settings: Mapping[str, Any]) -> None:
    """Refuse samplers and settings that there are not.

    Raises:
        UnknownName: If there is no such sampler or setting.
        ConfigError: If a setting cannot be used.
        PluginError: If optuna is not installed.
    """
    if name not in SAMPLERS:
        near = ", ".join(nearest(str(name), SAMPLERS) or SAMPLERS)
        raise UnknownName(f"No sampler is called {name!r}; there are {near}.")
    kind = getattr(library().samplers, SAMPLERS[name][0])
    plain = {
        key
        for key, one in inspect.signature(kind).parameters.items()
        if isinstance(one.default, (int, float, bool)) and key != "seed"
    }
    check_options(f"The sampler {name!r}", settings, plain)
    try:
        _made(name, settings, 0)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The sampler {name!r} cannot have {dict(settings)}: {error}") from error


def _made(name: str, settings: Mapping[str, Any], seed: int) -> Any:
    kind, usual = SAMPLERS[name]
    return getattr(library().samplers, kind)(**{**usual, **settings}, seed=seed)


def seed_of(seed: int, what: str, number: int) -> int:
    """Derive the seed of one thing of a search, below 2**31."""
    digest = hashlib.sha256(f"{seed}/{what}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep optuna from telling of its studies."""
    logs = library().logging
    before = logs.get_verbosity()
    logs.set_verbosity(logs.WARNING)
    try:
        yield
    finally:
        logs.set_verbosity(before)


class Proposer:
    """Proposes candidates of a space.

    Its study lives in memory alone and is made again from what was tried; each proposal has a sampler of its own, whose
    seed is derived from its number. So what is proposed depends on the seed and on what was tried before, and on no
    state that a killed process takes with it.

    Args:
        space: The space.
        sampler: Its name.
        settings: Settings of the sampler.
        seed: The search's.
        costs: How many numbers are to be small, beside the score that is to be great.
    """

    def __init__(self, space: Space, sampler: str, settings: Mapping[str, Any], *, seed: int, costs: int) -> None:
        self._space, self._sampler, self._settings, self._seed = space, sampler, dict(settings), seed
        with _hushed():
            self._study = library().create_study(directions=["maximize", *["minimize"] * costs])
        self._trial: Any = None
        self._number = 0

    def propose(self, picked: Mapping[str, Any] | None = None) -> tuple[Candidate, dict[str, Any]]:
        """Give the next candidate, and what was picked, as :meth:`repeat` takes it.

        Args:
            picked: What is to be picked, where that is known already; the sampler learns from it all the same.
        """
        with _hushed():
            self._study.sampler = _made(self._sampler, self._settings, seed_of(self._seed, "proposal", self._number))
            if picked is not None:
                self._study.enqueue_trial(dict(picked))
            self._trial = self._study.ask()
            candidate = self._space.draw(self._suggest)
        return candidate, dict(self._trial.params)

    def tell(self, values: Sequence[float] | None) -> dict[str, Any]:
        """Tell the score, and the cost if that counts, of what was proposed; None if it was of no use.

        Returns:
            What the sampler keeps of it, as plain JSON values for :meth:`repeat`.
        """
        state = library().trial.TrialState
        with _hushed():
            if values is None:
                self._study.tell(self._trial, state=state.PRUNED)
            else:
                self._study.tell(self._trial, list(values))
        self._number += 1
        kept: dict[str, Any] = json.loads(json.dumps(self._study.trials[-1].system_attrs))
        return kept

    def repeat(self, picked: Mapping[str, Any], values: Sequence[float] | None, kept: Mapping[str, Any]) -> Candidate:
        """Take up a proposal of before: what was picked, told, and kept."""
        distributions: dict[str, Any] = {}

        def pick(name: str, choice: Choice) -> Any:
            value = picked.get(name)
            if isinstance(choice, tuple):
                if len(choice) == 1:
                    return choice[0]
                distributions[name] = _distribution(choice)
                return choice[[label(one) for one in choice].index(str(value))]
            distributions[name] = _distribution(choice)
            return value

        try:
            candidate = self._space.draw(pick)
            state = library().trial.TrialState
            self._study.add_trial(
                library().trial.create_trial(
                    state=state.PRUNED if values is None else state.COMPLETE,
                    params=dict(picked),
                    distributions=distributions,
                    values=None if values is None else list(values),
                    system_attrs=dict(kept),
                )
            )
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"A trial of the study is not of this space: {dict(picked)!r}.") from error
        self._number += 1
        return candidate

    def _suggest(self, name: str, choice: Choice) -> Any:
        if isinstance(choice, Range):
            return self._trial.suggest_float(name, choice.low, choice.high, log=choice.log)
        if len(choice) == 1:
            return choice[0]
        labels = [label(one) for one in choice]
        return choice[labels.index(self._trial.suggest_categorical(name, labels))]


def _distribution(choice: Choice) -> Any:
    made = library().distributions
    if isinstance(choice, Range):
        return made.FloatDistribution(choice.low, choice.high, log=choice.log)
    return made.CategoricalDistribution([label(one) for one in choice])
