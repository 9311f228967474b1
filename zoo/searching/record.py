"""A study's folder: what it is of, and one line for each candidate that was looked at."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zoo.claiming import claimed
from zoo.errors import BundleError, ConfigError
from zoo.searching.costs import Cost

__all__ = ["Record", "Trial"]

IDENTITY, TRIALS = "search.json", "trials.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A candidate that was looked at.

    Args:
        number: Counted from 0, over all that were looked at.
        state: ``trained``; ``screened`` for one that was scored and no more; ``over`` for one above a limit;
            ``repeated`` for one that was trained before; ``failed`` for one whose loss became no number.
        reference: Its backbone, the genotype if it is of blocks.
        heads: Settings of its heads; empty for those that the data calls for.
        fit: Settings of ``zoo.fit``.
        picked: What was picked for it, by name.
        cost: What it costs.
        scores: Its training-free scores by name; empty for none.
        score: What it reached on the validation rows in the best epoch, more is better; None if it was not trained.
        metrics: All metrics on the validation rows, ``task/metric`` to value.
        seed: The seed of its training.
        kept: What the sampler keeps of it.
        seconds: How long its training took.
    """

    number: int
    state: str
    reference: str
    heads: tuple[Mapping[str, Any], ...] = ()
    fit: Mapping[str, Any] = field(default_factory=dict)
    picked: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost
    scores: Mapping[str, float] = field(default_factory=dict)
    score: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    seed: int | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values; a score of minus infinity is None."""
        told = asdict(self)
        told["heads"] = [dict(one) for one in self.heads]
        told["scores"] = {name: value if abs(value) != float("inf") else None for name, value in self.scores.items()}
        return told

    @classmethod
    def from_json(cls, data: Any) -> Trial:
        """Read what :meth:`as_json` gave."""
        scores = {name: -float("inf") if value is None else value for name, value in data["scores"].items()}
        return cls(**{**data, "heads": tuple(data["heads"]), "cost": Cost(**data["cost"]), "scores": scores})


class Record:
    """The file of a study's trials.

    A line is written whole and flushed to the disk before the next candidate is looked at; a last line that a kill cut
    off is taken away.

    Args:
        folder: The study's folder.
        trials: What it has.
    """

    def __init__(self, folder: Path, trials: list[Trial]) -> None:
        self.folder, self.trials = folder, trials

    @classmethod
    @contextlib.contextmanager
    def opened(cls, folder: Path, identity: Mapping[str, Any]) -> Iterator[Record]:
        """Open a study, or begin it; no other process can while it is open.

        Args:
            folder: Its folder; made if it is not there.
            identity: All that decides what is found, as JSON.

        Raises:
            BundleError: If the folder holds something else, cannot be read, or another process searches in it.
            ConfigError: If it was begun as another study.
        """
        told = json.loads(json.dumps(dict(identity)))
        place = folder / IDENTITY
        if not place.exists() and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise BundleError(f"{folder} holds something that is no study; give a folder that is not there yet.")
        with claimed(folder, "search"):
            yield cls(folder, _continued(folder, told) if place.exists() else _begin(folder, told))

    def add(self, trial: Trial) -> None:
        """Write down a candidate."""
        line = json.dumps(trial.as_json(), allow_nan=False) + "\n"
        with (self.folder / TRIALS).open("ab") as file:
            file.write(line.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        self.trials.append(trial)


def _begin(folder: Path, told: Mapping[str, Any]) -> list[Trial]:
    beside = folder / f".{IDENTITY}.{os.getpid()}"
    beside.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    os.replace(beside, folder / IDENTITY)
    return []


def _continued(folder: Path, told: Mapping[str, Any]) -> list[Trial]:
    """Read the trials of a study that was begun as the same."""
    try:
        begun = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
        trials = _read(folder / TRIALS)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{folder} cannot be read as a study; remove it, or give another folder.") from error
    other = [key for key in {**begun, **told} if begun.get(key) != told.get(key)]
    if other:
        raise ConfigError(
            f"{folder} was begun with another {other[0]}: {_short(begun.get(other[0]))} there, "
            f"{_short(told.get(other[0]))} now; give another folder, or remove this one."
        )
    return trials


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _read(path: Path) -> list[Trial]:
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content.rpartition(b"\n")[0] + b"\n" if b"\n" in content else b""
    if whole != content:
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return [Trial.from_json(json.loads(line)) for line in whole.decode("utf-8").splitlines()]
