"""``zoo search``: the best of a space, as a bundle."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from zoo.cli.arguments import read_augmentation, read_settings
from zoo.cli.options import AsJson, Device, ImageColumn, Seed, Strict
from zoo.cli.output import note, say, say_json, say_table, speaks
from zoo.errors import ConfigError

if TYPE_CHECKING:
    from zoo.searching.result import SearchResult

__all__ = ["EXAMPLES", "read_space_file", "search"]

EXAMPLES = (
    "zoo search digits/ --space 'timm:mobilenetv3_small_100?img_size=64' --max-macs 5e6 --out my-search\n\n"
    "zoo search digits/ --space space.yaml --trials 40 --sampler evolutionary --minimize macs --out my-search"
)


@speaks
def search(
    context: typer.Context,
    data: Annotated[str, typer.Argument(metavar="DATA", help="Folder of class folders, or CSV, TSV or Parquet table.")],
    space: Annotated[
        str, typer.Option(metavar="FILE", help="The space, YAML or JSON; or the reference of a base for one of blocks.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The study's folder; one that was stopped goes on.")],
    trials: Annotated[int, typer.Option(min=1, metavar="N", help="How many candidates are trained.")] = 20,
    sampler: Annotated[str, typer.Option(metavar="NAME", help="tpe, evolutionary or random.")] = "tpe",
    sampler_settings: Annotated[
        list[str] | None,
        typer.Option("--set-sampler", metavar="KEY=VALUE", help="A setting of optuna's sampler. Repeatable."),
    ] = None,
    minimize: Annotated[
        Literal["parameters", "macs", "latency"] | None, typer.Option(help="What is to be small beside the score.")
    ] = None,
    max_parameters: Annotated[float | None, typer.Option(metavar="N", help="Parameters of the model.")] = None,
    max_macs: Annotated[float | None, typer.Option(metavar="N", help="Multiply-accumulates for one picture.")] = None,
    max_latency: Annotated[
        float | None, typer.Option(metavar="MS", help="Milliseconds that a picture may take on this CPU.")
    ] = None,
    screened: Annotated[int, typer.Option(min=0, metavar="N", help="Candidates scored without training first.")] = 0,
    cut: Annotated[int, typer.Option(min=1, metavar="N", help="How many of those are tried first.")] = 5,
    score: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="By synflow or naswot; both by default. Repeatable.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, metavar="N", help="Epochs of a trial.")] = 3,
    final_epochs: Annotated[int, typer.Option(min=1, metavar="N", help="Epochs of the best.")] = 20,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of zoo.fit for all trials. Repeatable."),
    ] = None,
    augmentation: Annotated[
        str | None, typer.Option(metavar="NAME", help="Vary training pictures: light, standard, or JSON.")
    ] = None,
    validation: Annotated[float, typer.Option(help="Share of the rows by which candidates are told apart.")] = 0.2,
    seed: Seed = 0,
    device: Device = "auto",
    image: ImageColumn = None,
    split: Annotated[
        str | None, typer.Option("--split", "--split-column", metavar="COL", help="Column of train, validation, test.")
    ] = None,
    strict: Strict = False,
    picture: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw score over cost, as PNG.")] = None,
    as_json: AsJson = False,
) -> None:
    """Search a space of networks, or of backbones, heads, methods and rates; the best becomes a bundle."""
    import zoo

    own = read_settings(settings or (), taken={*context.params, "model", "folder"})
    if augmentation is not None:
        own["augmentation"] = read_augmentation(augmentation)
    found = zoo.search(
        read_space_file(space),
        zoo.read(data, image=image, split=split, strict=strict),
        out,
        trials=trials,
        sampler=sampler,
        sampler_settings=read_settings(sampler_settings or (), taken=(), option="--set-sampler"),
        minimize=minimize,
        max_parameters=max_parameters,
        max_macs=max_macs,
        max_latency=max_latency,
        screened=screened,
        cut=cut,
        scores=score or ("synflow", "naswot"),
        epochs=epochs,
        final_epochs=final_epochs,
        validation=validation,
        seed=seed,
        strict=strict,
        device=device,
        **own,
    )
    cost = minimize or "macs"
    if picture is not None:
        note(f"{found.plot(picture, cost)} shows the score over the {cost}.")
    if as_json:
        return say_json(found.as_json())
    _say_front(found, cost)
    return say(f"Next: zoo predict {shlex.quote(str(out / 'best'))} picture.jpg")


def read_space_file(given: str | Path) -> Any:
    """Read a file, or take the reference of a base as it is."""
    if not str(given).endswith((".yaml", ".yml", ".json")):
        return given
    import yaml

    try:
        return yaml.safe_load(Path(given).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"--space {given} cannot be read: {' '.join(str(error).split())}") from error


def _say_front(found: SearchResult, cost: str) -> None:
    """Tell the Pareto front as a table, and the best."""
    heads = ("trial", "backbone", "method", "score", "parameters", "MACs", "ms")
    rows = []
    for one in dict.fromkeys([*(trial.number for trial in found.front(cost)), found.best.number]):
        trial = found.trials[one]
        macs, ms = trial.cost.macs, trial.cost.latency
        rows.append(
            (
                *(str(trial.number), trial.reference, str(trial.fit["method"]), f"{trial.score:.4g}"),
                *(f"{trial.cost.parameters:,}", None if macs is None else f"{macs:,}"),
                None if ms is None else f"{ms:.3g}",
            )
        )
    say_table(heads, rows, numbers=heads[3:])
    say(f"{len(found.trained)} of {len(found.trials)} candidates were trained; the best is trial {found.best.number}.")
