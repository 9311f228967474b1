"""``zoo episodes``."""

from __future__ import annotations

from typing import Annotated

import typer

from zoo.cli.options import AsJson, BundleAt, Device, ImageColumn, Strict
from zoo.cli.output import note, say, say_json, speaks

__all__ = ["episodes"]

EXAMPLES = "zoo episodes my-model digits/ --ways 5 --shots 1\n\nzoo episodes my-model digits/ --classifier cosine"


@speaks
def episodes(
    bundle: BundleAt,
    data: Annotated[str, typer.Argument(metavar="DATA", help="Folder of class folders, or CSV, TSV or Parquet table.")],
    ways: Annotated[int, typer.Option(min=2, metavar="N", help="Classes of an episode.")] = 5,
    shots: Annotated[int, typer.Option(min=1, metavar="N", help="Rows of each class to learn from.")] = 1,
    queries: Annotated[int, typer.Option(min=1, metavar="N", help="Further rows of each class to tell apart.")] = 15,
    count: Annotated[int, typer.Option("--episodes", min=2, metavar="N", help="How many are drawn.")] = 600,
    classifier: Annotated[str, typer.Option(metavar="NAME", help="centroid, cosine or logistic.")] = "centroid",
    task: Annotated[str | None, typer.Option(metavar="NAME", help="Whose labels count, of several.")] = None,
    split: Annotated[str | None, typer.Option(metavar="PART", help="Only train, validation or test.")] = None,
    split_column: Annotated[str | None, typer.Option(metavar="COL", help="Column of train, validation, test.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the episodes.")] = 0,
    device: Device = "auto",
    image: ImageColumn = None,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Measure how well a bundle's features tell classes apart from a few rows of each."""
    import zoo
    from zoo.training.rows.tables import read_for

    model = zoo.load(bundle)
    table = read_for(model, data, image=image, split=split_column, strict=strict)
    for row in table.skipped:
        note(f"skipped {row}")
    found = zoo.evaluate_episodes(
        model,
        table,
        ways=ways,
        shots=shots,
        queries=queries,
        episodes=count,
        classifier=classifier,
        task=task,
        split=split,
        seed=seed,
        device=device,
    )
    if as_json:
        return say_json(found.as_json())
    note(f"95 % confidence, {count} episodes of {queries} queries a class, drawn of {found.classes} classes")
    return say(f"{ways}-way {shots}-shot ({classifier}): {found}")
