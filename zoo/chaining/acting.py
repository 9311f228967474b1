"""What a step of a chain can do: train, prune, export and the like, each by the public function of its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from zoo.data import Table
from zoo.model import Model

__all__ = ["ACTS", "Act"]

Do = Callable[[Model, Table, dict[str, Any], Path], None]


@dataclass(frozen=True, slots=True)
class Act:
    """One thing that a step can do.

    Args:
        function: Gives the public function whose options the step has.
        reserved: Its parameters that the chain gives itself.
        check: Refuses values that the function would refuse before it looks at a model or data.
        do: Does it to a model, with the rows, the options, and where the step's folder is to be. The model is changed
            in place, or what the step leaves is written there.
        leaves: Whether the model is what the step leaves, and the next one gets it; else it gets what this one got.
    """

    function: Callable[[], Callable[..., Any]]
    reserved: frozenset[str]
    check: Callable[[Mapping[str, Any]], None]
    do: Do
    leaves: bool


def _fit() -> Callable[..., Any]:
    from zoo.training.fitting import fit

    return fit


def _check_fit(options: Mapping[str, Any]) -> None:
    from zoo.training.judging.reporting import check_trackers
    from zoo.training.planning.settings import Settings

    known = {field.name for field in fields(Settings)}
    usual = {name: one.default for name, one in inspect.signature(_fit()).parameters.items() if name in known}
    given = {**usual, **{name: value for name, value in options.items() if name in known}}
    Settings.of(**given | {"report_to": check_trackers(given["report_to"]), "checkpoint": "checkpoints"})


def _do_fit(model: Model, rows: Table, options: dict[str, Any], folder: Path) -> None:
    """Train; a run that was killed goes on from its newest checkpoint."""
    import zoo

    run = {"seed": 0, **options, **options.pop("settings", {})}
    run.pop("settings", None)
    checkpoint = folder.parent / f".{folder.name}.run"
    zoo.fit(model, rows, **run, checkpoint=checkpoint, resume=any(checkpoint.glob("checkpoint-*")))


def _prune() -> Callable[..., Any]:
    from zoo.pruning.making import prune

    return prune


def _check_prune(options: Mapping[str, Any]) -> None:
    from zoo.pruning.making import check_pruning

    check_pruning(**options, has_data=options.get("importance") == "taylor")


def _do_prune(model: Model, rows: Table, options: dict[str, Any], folder: Path) -> None:
    """Prune; what is looked at for that, and to measure norms anew, is the training rows."""
    import zoo
    from zoo.norms import running_norms

    if options.get("importance") == "taylor" or (options.get("sparsity") is None and running_norms(model)):
        kept = [row for row, part in enumerate(rows.split or ()) if part in (None, "train")]
        options = {**options, "data": rows.select(kept) if kept else rows}
    zoo.prune(model, **options)


def _quantize() -> Callable[..., Any]:
    from zoo.quantizing.making import quantize

    return quantize


def _check_quantize(options: Mapping[str, Any]) -> None:
    from zoo.quantizing.making import check_quantizing

    check_quantizing(**{name: value for name, value in options.items() if name != "streams"})


def _do_quantize(model: Model, rows: Table, options: dict[str, Any], folder: Path) -> None:
    """Quantize by the rows that are no test rows."""
    import zoo

    zoo.quantize(model, rows, **options)


def _export() -> Callable[..., Any]:
    from zoo.exporting.writing import export

    return export


def _check_export(options: Mapping[str, Any]) -> None:
    from zoo.exporting.writing import check_layout

    check_layout(options.get("layout"))


def _do_export(model: Model, rows: Table, options: dict[str, Any], folder: Path) -> None:
    """Write the model in another library's form."""
    import zoo

    zoo.export(model, folder, **options)


ACTS: Mapping[str, Act] = {
    "fit": Act(
        _fit, frozenset({"model", "data", "checkpoint", "resume", "progress"}), _check_fit, _do_fit, leaves=True
    ),
    "prune": Act(_prune, frozenset({"model", "data"}), _check_prune, _do_prune, leaves=True),
    "quantize": Act(_quantize, frozenset({"model", "data"}), _check_quantize, _do_quantize, leaves=True),
    "export": Act(_export, frozenset({"model", "folder"}), _check_export, _do_export, leaves=False),
}
"""Act to how it is done; the name is the field of a step and the public function."""
