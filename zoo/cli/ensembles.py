"""``zoo ensemble build`` and ``zoo ensemble evaluate``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.arguments import check_target, read_augmentation
from zoo.cli.options import AsJson, BatchSize, BundleAt, Device, ImageColumn, Strict
from zoo.cli.output import note, say, say_json, say_table, speaks
from zoo.errors import ConfigError

if TYPE_CHECKING:
    from zoo.ensembling.ensemble import Ensemble

__all__ = ["build", "ensembles", "evaluate"]

BUILD_EXAMPLES = (
    "zoo ensemble build cells-1 cells-2 cells-3 --out cells\n\n"
    "zoo ensemble build small=cells-1 large=cells-2 --combine greedy --fit cells.csv --out cells\n\n"
    "zoo ensemble build cells-1 cells-2 --combine weighted --weight 1 --weight 3 --tta flip --out cells"
)
EVALUATE_EXAMPLES = "zoo ensemble evaluate cells cells.csv --split test"
EXAMPLES = f"{BUILD_EXAMPLES}\n\n{EVALUATE_EXAMPLES}"

Data = Annotated[str, typer.Argument(metavar="DATA", help="Folder of class folders, or CSV, TSV or Parquet table.")]
SplitColumn = Annotated[
    str | None, typer.Option("--split-column", metavar="COL", help="Column of train, validation, test.")
]


def ensembles(context: typer.Context) -> None:
    """Several models as one: build an ensemble, or measure it beside its members."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@speaks
def build(
    members: Annotated[
        list[str],
        typer.Argument(
            metavar="MEMBER...", help="Bundles, each PLACE or NAME=PLACE, a folder or URL.", show_default=False
        ),
    ],
    out: Annotated[str, typer.Option(metavar="BUNDLE", help="Folder or URL of the new bundle.")],
    combine: Annotated[
        str, typer.Option(metavar="HOW", help="mean, logits, weighted, vote, greedy or stacking.")
    ] = "mean",
    weight: Annotated[
        list[float] | None, typer.Option(metavar="X", help="For weighted: one for each member. Repeatable.")
    ] = None,
    tta: Annotated[
        str | None, typer.Option(metavar="NAME", help="Average over views: flip, light, standard, or JSON.")
    ] = None,
    views: Annotated[int | None, typer.Option(min=2, help="Number of views of an augmentation.")] = None,
    fit: Annotated[str | None, typer.Option(metavar="DATA", help="Validation data that weights are fitted on.")] = None,
    split: Annotated[str | None, typer.Option(metavar="PART", help="Fit on train, validation or test only.")] = None,
    split_column: SplitColumn = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="For greedy: selections at the most.")] = None,
    start: Annotated[int | None, typer.Option(min=1, help="For greedy: best members to begin with.")] = None,
    strength: Annotated[float | None, typer.Option(help="For stacking: how strongly it is drawn to the mean.")] = None,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    image: ImageColumn = None,
    strict: Strict = False,
    refer: Annotated[bool, typer.Option("--refer", help="Keep only where the members' bundles are.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build an ensemble of bundles, and save it as a bundle."""
    import zoo
    from zoo.ensembling.spec import FITTED
    from zoo.remote import is_url, shown
    from zoo.training.rows.tables import read_for

    check_target(out, overwrite=overwrite)
    fitting = {"split": split, "rounds": rounds, "start": start, "strength": strength}
    given = [f"--{name}" for name, value in {**fitting, "split-column": split_column}.items() if value is not None]
    if fit is None and given:
        raise ConfigError(f"{given[0]} is for fitting; say on which data: --fit DATA.")
    if fit is None and combine in FITTED and not (combine == "weighted" and weight):
        raise ConfigError(f"--combine {combine} is fitted on validation data; say which: --fit DATA.")
    views_of = tta if tta is None or tta == "flip" else read_augmentation(tta)
    made = zoo.ensemble(read_members(members), combine, weights=weight or None, tta=views_of, views=views)
    if fit is not None:
        table = read_for(made, fit, image=image, split=split_column, strict=strict)
        for row in table.skipped:
            note(f"skipped {row}")
        made.fit(table, batch_size=batch_size, device=device, **fitting)
    made.save(out, overwrite=overwrite, members="refer" if refer else "embed")
    where = shown(out) if is_url(out) else str(Path(out))
    if as_json:
        return say_json(
            {"bundle": where, "combine": combine, "members": list(made.members), "weights": made.spec.weights}
        )
    rows = [(name, *(_number(each[n]) for each in made.spec.weights.values())) for n, name in enumerate(made.members)]
    tasks = list(made.spec.weights)
    say_table(("member", *tasks), rows, numbers=tasks)
    return say(f"{where} is saved. Next: zoo predict {shlex.quote(where)} picture.jpg")


def read_members(texts: Sequence[str]) -> Mapping[str, Path | str]:
    """Read members, each a folder or URL, or ``name=`` and one; a folder that is there is taken as it is.

    Raises:
        ConfigError: If two have one name.
    """
    from zoo.remote import is_url

    found: dict[str, Path | str] = {}
    for number, text in enumerate(texts, start=1):
        name, equals, folder = text.partition("=")
        if not equals or is_url(text) or Path(text).is_dir():
            name, folder = f"member{number}", text
        if name in found:
            raise ConfigError(f"Two members are called {name!r}; give each its own name.")
        found[name] = folder if is_url(folder) else Path(folder)
    return found


@speaks
def evaluate(
    bundle: BundleAt,
    data: Data,
    split: Annotated[str | None, typer.Option(metavar="PART", help="Only train, validation or test.")] = None,
    split_column: SplitColumn = None,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    image: ImageColumn = None,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Measure an ensemble, and each of its members, on labelled data."""
    import zoo
    from zoo.training.rows.tables import read_for

    made = _load(bundle)
    table = read_for(made, data, image=image, split=split_column, strict=strict)
    for row in table.skipped:
        note(f"skipped {row}")
    run: dict[str, Any] = {"split": split, "batch_size": batch_size, "device": device}
    told = {"ensemble": zoo.evaluate(made, table, **run)}
    members = {name: zoo.evaluate(model, table, **run) for name, model in made.members.items()}
    if as_json:
        return say_json({**told, "members": members})
    told |= members
    rows = [
        (task, metric, *(_number(found.get(task, {}).get(metric)) for found in told.values()))
        for task, metrics in told["ensemble"].items()
        for metric in metrics
    ]
    return say_table(("task", "metric", *told), rows, numbers=list(told))


def _load(bundle: str) -> Ensemble:
    import zoo
    from zoo.remote import shown

    made = zoo.load(bundle)
    if not isinstance(made, zoo.Ensemble):
        raise ConfigError(
            f"'{shown(bundle)}' is a single model; measure it with: zoo evaluate {shlex.quote(shown(bundle))} DATA."
        )
    return made


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"
