"""``zoo.chain``: one step after the other, a bundle after each; a chain that died goes on where it did."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from zoo.assembly import build, plan_model
from zoo.bundle.loading import load
from zoo.chaining.acting import ACTS
from zoo.chaining.measuring import latency, megabytes
from zoo.chaining.recipe import Built, Chain, ChainStep, read_chain, settled, told
from zoo.claiming import claimed
from zoo.data import Column, Table, read, split_table
from zoo.errors import BundleError, ConfigError
from zoo.model import Model
from zoo.training.judging.evaluation import evaluate
from zoo.training.resuming.identity import rows_digest
from zoo.training.rows.heads import infer_heads
from zoo.training.rows.tables import input_columns
from zoo.training.rows.targets import columns_of

__all__ = ["ChainResult", "ChainRow", "chain"]

log = logging.getLogger("zoo")

RECORD = "chain.json"
_ROW = "\0row"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainRow:
    """What a step left.

    Args:
        name: The step's name.
        act: What it did, with the method's name where it trained.
        path: What it wrote, relative to the chain's folder: a bundle, or what was exported.
        metrics: ``task/metric`` to the value on the test rows; empty for what is no model of ours.
        parameters: Number of parameters; None likewise.
        megabytes: Size of its files of tensors, in 10**6 bytes.
        milliseconds: Median time of a pass of one row on the CPU; None likewise.
        seconds: How long the step took.
    """

    name: str
    act: str
    path: str
    metrics: dict[str, float]
    parameters: int | None
    megabytes: float
    milliseconds: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class ChainResult:
    """What a chain left.

    Args:
        folder: Its folder.
        rows: One a step.
    """

    folder: Path
    rows: tuple[ChainRow, ...]

    @property
    def model(self) -> Model:
        """The last model, loaded from its bundle."""
        return _loaded(self.folder / next(row.path for row in reversed(self.rows) if row.parameters is not None))

    def as_json(self) -> dict[str, Any]:
        """Give it as JSON."""
        return {"folder": str(self.folder), "steps": [asdict(row) for row in self.rows]}


def chain(recipe: Chain | str | Path, folder: str | Path, *, strict: bool = False) -> ChainResult:
    """Run several steps on one model: each writes what it leaves into a folder, and is measured on the same test rows.

    The bundle of step 2, called ``tune``, is ``02-tune``. A chain that is run again goes on behind its last finished
    step, and inside a step that trains from its newest checkpoint. A chain whose beginning has changed since, or whose
    data have, is refused.

    Args:
        recipe: The chain, or the path of its file, YAML or JSON.
        folder: Where the steps' bundles are to be; made where it is not there.
        strict: Whether an unreadable picture is an error instead of a skipped row.

    Returns:
        A row for each step.

    Raises:
        ConfigError: If the recipe cannot be read, or is another than the one by which the folder was begun.
        UnknownName: If it names an option, a method, a step or a backbone that is not there.
        DataError: If the data cannot be used.
        BundleError: If the folder holds something else, another chain runs in it, or a step's bundle is not well.
    """
    asked = recipe if isinstance(recipe, Chain) else read_chain(recipe)
    place = Path(folder)
    record = _Record.of(place)
    for given in [asked.model, *(step.build for step in asked.steps if step.build is not None)]:
        _plan(given)
    rows = _rows(asked, strict=strict)
    digests = _digests(asked, rows)
    record.check(asked, digests)
    with claimed(place, "chain"):
        record = _Record.of(place)  # another chain may have ended since
        record.check(asked, digests)
        record.write()
        return ChainResult(place, _run(asked, place, rows, record, digests, strict=strict))


def _run(
    asked: Chain, place: Path, rows: Table, record: _Record, digests: list[str], *, strict: bool
) -> tuple[ChainRow, ...]:
    """Do the steps that are not finished."""
    model: Model | None = None
    bundles: dict[str, Path] = {}
    done: list[ChainRow] = []
    for number, step in enumerate(asked.steps):
        path = place / f"{number + 1:02}-{step.name}"
        bundles[step.name] = path
        if (known := record.row(number, digests[number])) is not None:
            log.info("%s: done already.", path)
            model = None if ACTS[step.act].leaves else model
            done.append(known)
            continue
        start = time.monotonic()
        if step.build is not None:
            model = _build(asked, step.build, rows)
        elif model is None:
            model = _last(done, asked, place) or _build(asked, asked.model, rows)
        log.info("Step %d of %d, %s: %s.", number + 1, len(asked.steps), step.name, _act(step))
        act, data = ACTS[step.act], rows if step.data is None else _read(asked, step.data, strict=strict)
        if not act.leaves:
            _clear(path)
        options = settled(step.options, bundles)
        if "seed" in inspect.signature(act.function()).parameters:
            options = {"seed": asked.seed, **options}
        act.do(model, data, options, path)
        if act.leaves:
            model.save(path, overwrite=True)
            model = _loaded(path)  # a chain that went on here would have what the bundle has, and no more
        row = _measured(model if act.leaves else None, rows, step, path, time.monotonic() - start)
        record.add(number, digests[number], row)
        shutil.rmtree(path.parent / f".{path.name}.run", ignore_errors=True)
        done.append(row)
    return tuple(done)


# --- models and rows


def _plan(given: Built) -> Any:
    return plan_model(given.backbone or given.streams or "", inputs=given.inputs, share=given.share)


def _build(asked: Chain, given: Built, rows: Table) -> Model:
    return build(
        given.backbone or given.streams or "",
        infer_heads(rows, heads=list(asked.heads or ())),
        inputs=given.inputs,
        share=given.share,
        weights=None if given.weights == "none" else given.weights,
        seed=asked.seed,
    )


def _last(done: list[ChainRow], asked: Chain, place: Path) -> Model | None:
    """Load what the last finished step left; None if there is none."""
    kept = [row for row, step in zip(done, asked.steps, strict=False) if ACTS[step.act].leaves]
    return _loaded(place / kept[-1].path) if kept else None


def _loaded(path: Path) -> Model:
    found = load(path)
    assert isinstance(found, Model)
    return found


def _read(asked: Chain, data: str, *, strict: bool) -> Table:
    planned = _plan(asked.model)
    labels = list(asked.targets) if asked.targets else None
    columns = input_columns(planned.modalities)
    return read(data, image=asked.image, split=asked.split, labels=labels, strict=strict, **columns)


def _rows(asked: Chain, *, strict: bool) -> Table:
    """Read the rows, and say of each whether it is for tests; what the data says itself stays."""
    table = _read(asked, asked.data, strict=strict)
    if table.split is not None and "test" in table.split:
        return table
    numbered = replace(table, columns={**table.columns, _ROW: Column(_ROW, "number", tuple(range(len(table))))})
    even = list(asked.targets or (table.columns if len(table.columns) == 1 else ()))
    shares = {"train": 1 - asked.test, "test": asked.test}
    tested = set(split_table(numbered, fractions=shares, seed=asked.seed, stratify=even)["test"].column(_ROW).values)
    before = table.split or (None,) * len(table)
    return table.with_split(["test" if row in tested else before[row] or "train" for row in range(len(table))])


# --- what is done already


def _digests(asked: Chain, rows: Table) -> list[str]:
    """Digest all that decides what each step leaves."""
    seen = rows_digest(rows, {name: name for name in rows.columns})
    return [
        hashlib.sha256(json.dumps([told(asked, number), seen], sort_keys=True).encode()).hexdigest()
        for number in range(len(asked.steps))
    ]


class _Record:
    """The file that says which steps are finished.

    Args:
        path: The file.
        steps: What it has: digest and row of each finished step.
    """

    def __init__(self, path: Path, steps: list[dict[str, Any]]) -> None:
        self._path, self._steps = path, steps

    @classmethod
    def of(cls, folder: Path) -> _Record:
        """Read it.

        Raises:
            BundleError: If the folder holds something else.
        """
        path = folder / RECORD
        if not path.exists():
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise BundleError(f"{folder} holds something that is no chain; give a folder that is not there yet.")
            return cls(path, [])
        try:
            steps = json.loads(path.read_text(encoding="utf-8"))["steps"]
            [ChainRow(**one["row"]) for one in steps]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise BundleError(f"{path} cannot be read as the record of a chain; remove the folder.") from error
        return cls(path, steps)

    def check(self, asked: Chain, digests: list[str]) -> None:
        """Refuse another chain than the one that was begun.

        Raises:
            ConfigError: If a finished step is another, or was left out.
        """
        for number, one in enumerate(self._steps):
            if number >= len(digests) or one["digest"] != digests[number]:
                raise ConfigError(
                    f"{self._path.parent} was begun with another chain or other data: its step {number + 1}, "
                    f"{one['row']['name']!r}, is finished and differs; give another folder, or remove this one."
                )

    def row(self, number: int, digest: str) -> ChainRow | None:
        """Give what a finished step left; None if it is not finished."""
        return ChainRow(**self._steps[number]["row"]) if number < len(self._steps) else None

    def add(self, number: int, digest: str, row: ChainRow) -> None:
        """Write down that a step is finished, at once or not at all."""
        self._steps = [*self._steps[:number], {"digest": digest, "row": asdict(row)}]
        self.write()

    def write(self) -> None:
        """Write the file, by which the folder is known as a chain's, at once or not at all."""
        beside = self._path.with_name(f".{RECORD}.{os.getpid()}")
        beside.write_text(json.dumps({"steps": self._steps}, indent=2) + "\n", encoding="utf-8")
        os.replace(beside, self._path)


def _clear(path: Path) -> None:
    """Remove what an unfinished export left."""
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


# --- what a step left


def _act(step: ChainStep) -> str:
    return f"{step.act} ({step.options.get('method', 'fine_tuning')})" if step.act == "fit" else step.act


def _measured(model: Model | None, rows: Table, step: ChainStep, path: Path, seconds: float) -> ChainRow:
    found: Mapping[str, Mapping[str, float]] = {}
    if model is not None:
        columns_of(model, rows)
        found = evaluate(model, rows, split="test", device="cpu")
    return ChainRow(
        name=step.name,
        act=_act(step),
        path=path.name,
        metrics={f"{task}/{metric}": float(value) for task, part in found.items() for metric, value in part.items()},
        parameters=None if model is None else sum(parameter.numel() for parameter in model.parameters()),
        megabytes=megabytes(path),
        milliseconds=None if model is None else latency(model.to(torch.device("cpu"))),
        seconds=round(seconds, 1),
    )
