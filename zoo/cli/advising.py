"""``zoo advise``."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.advising import AUTO
from zoo.cli.options import (
    AsJson,
    Backbone,
    Device,
    Heads,
    ImageColumn,
    Inputs,
    SavedModel,
    Share,
    StreamNames,
    Strict,
    Targets,
    Weights,
)
from zoo.cli.output import note, say, say_json, say_table, speaks
from zoo.cli.starting import start_of
from zoo.cli.training import Data

if TYPE_CHECKING:
    from zoo.advising.advice import Advice
    from zoo.advising.evidence import TaskEvidence

__all__ = ["advise"]

EXAMPLES = (
    "zoo advise pictures/ --backbone timm:mobilenetv3\n\n"
    "zoo advise cells.csv --backbone timm:resnet18 --target defect --rows 500\n\n"
    "zoo advise more.csv --model my-model\n\n"
    "zoo advise cells.csv --backbone timm:resnet18 --no-probe --json"
)


@speaks
def advise(
    context: typer.Context,
    data: Data,
    backbone: Backbone = None,
    stream: StreamNames = None,
    inputs: Inputs = None,
    share: Share = None,
    head: Heads = None,
    target: Targets = None,
    model: SavedModel = None,
    rows: Annotated[int, typer.Option(min=20, metavar="N", help="Most rows whose features are measured.")] = 1000,
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Fine-tune a copy for a minute at most, to see what moves.")
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Seed of rows, folds and random weights.")] = 0,
    device: Device = "auto",
    weights: Weights = "pretrained",
    image: ImageColumn = None,
    split: Annotated[
        str | None, typer.Option("--split", "--split-column", metavar="COL", help="Column of train, validation, test.")
    ] = None,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Say which training method fits data and backbone, with the evidence; nothing is trained."""
    import zoo
    from zoo.training.judging.evaluation import pick_device

    start = start_of(context)
    pick_device(device)
    source: dict[str, Any] = {"image": image, "split": split, "labels": target or None, "masks": (), "strict": strict}
    made, table = start.make(data, source, method=AUTO, seed=seed)
    advice = zoo.advise(made, table, rows=rows, probe=probe, seed=seed, device=device, strict=strict)
    typed = {
        "--backbone": [backbone] if backbone else [],
        "--stream": stream or [],
        "--input": inputs or [],
        "--share": share or [],
        "--head": head or [],
        "--target": target or [],
        "--model": [model] if model else [],
        "--image": [image] if image else [],
        "--split": [split] if split else [],
        "--weights": [weights] if weights != "pretrained" else [],
    }
    command = _command(data, typed, advice)
    if as_json:
        return say_json({**advice.as_json(), "command": command})
    return _say(advice, command)


def _command(data: str, typed: Mapping[str, list[str]], advice: Advice) -> str:
    """Write the command that follows the advice, in words that a shell reads."""
    words = ["zoo", "fit", data, "--out", "my-model"]
    words += [word for option, values in typed.items() for value in values for word in (option, value)]
    return shlex.join([*words, *advice.options()])


def _say(advice: Advice, command: str) -> None:
    """Print the evidence as tables, then what follows from it."""
    say(f"{advice.source}: {advice.rows} training rows, features of {advice.measured} of them measured")
    say()
    names: tuple[str, ...] = ("task", "column", "labelled", "least", "median", "imbalance")
    say_table(names, [_size(one) for one in advice.evidence], numbers=names[2:])
    say()
    names = ("task", "features", "linear", "neighbours", "LogME")
    say_table(
        names,
        [
            (one.task, held.features, *map(_number, (held.linear, held.neighbours, held.logme)))
            for one in advice.evidence
            for held in one.separability
        ],
        numbers=names[2:],
    )
    say()
    names = ("task", "gain", "error", "over", "quadrant")
    rows = [
        (one.task, _number(one.gain), _number(one.gain_error), one.reference, advice.placements[one.task].quadrant)
        for one in advice.evidence
    ]
    say_table(names, rows, numbers=("gain", "error"))
    say()
    if advice.drift is not None:
        told = f"CKA {advice.drift.cka:.2f} after {advice.drift.steps} steps of fine-tuning"
        if advice.drift.untrained is not None:
            told += f"; {advice.drift.untrained:.2f} with random weights"
        say(told)
    by = f", by {advice.decided_by}" if len(advice.evidence) > 1 else ""
    say(f"{advice.quadrant}{by}: {advice.method}, since {advice.reason}")
    for near in advice.near:
        say(f"near: {near}")
    for warning in advice.warnings:
        note(f"note: {warning}")
    say(f"Next: {command}")


def _size(one: TaskEvidence) -> tuple[Any, ...]:
    size = one.size
    return (one.task, one.column, size.rows, size.least, size.median, _number(size.imbalance))


def _number(value: float | None) -> str | None:
    return None if value is None or not math.isfinite(value) else f"{value:.2f}"
