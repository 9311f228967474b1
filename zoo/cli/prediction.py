"""``zoo predict``: pictures in, what a bundle says of them out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.cli.options import AsJson, BatchSize, BundleAt, Device
from zoo.cli.output import note, progress, say, say_json, speaks

__all__ = ["predict"]

EXAMPLES = (
    "zoo predict my-model cat.jpg\n\n"
    "zoo predict my-model pictures/ --csv labels.csv\n\n"
    "zoo predict my-model *.png --json\n\n"
    "zoo predict hf://user/pets cat.jpg\n\n"
    "zoo predict my-pairs pairs.csv"
)


@speaks
def predict(
    bundle: BundleAt,
    pictures: Annotated[
        list[Path],
        typer.Argument(
            metavar="PICTURE...", help="Pictures, or folders of them; a table for several inputs.", show_default=False
        ),
    ],
    batch_size: BatchSize = 32,
    device: Device = "auto",
    as_json: AsJson = False,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write a table to this file.")] = None,
) -> None:
    """Predict pictures; exit code 1 if some could not be read."""
    import zoo
    from zoo.cli.pictures import Predicted, find_pictures, predict_all, predict_rows
    from zoo.cli.spreadsheet import check_file, write_csv
    from zoo.training.judging.evaluation import pick_device

    paths = find_pictures(pictures)
    if csv is not None:
        check_file(csv)
    place = pick_device(device)
    rows: list[Predicted] = []
    model = zoo.load(bundle)
    each = predict_all if list(model.modalities.values()) == ["image"] else predict_rows
    found = each(model, paths, batch_size=batch_size, device=place)
    lines = not as_json and csv is None
    for row in found if lines else progress(found, "Predicting", total=len(paths)):
        rows.append(row)
        if row.reason is not None:
            note(f"{row.path}: {row.reason}")
        elif lines:
            _say_row(row.path, row.predictions)
    if as_json:
        good = [row for row in rows if row.reason is None]
        say_json([{"picture": str(row.path), "predictions": row.predictions} for row in good])
    if csv is not None:
        write_csv(csv, rows)
        note(f"{len(rows)} rows in {csv}")
    if any(row.reason is not None for row in rows):
        raise typer.Exit(1)


def _say_row(path: Path, predictions: Mapping[str, Mapping[str, Any]]) -> None:
    for task, prediction in predictions.items():
        say(f"{path}  {task}: {_words(prediction)}")


def _words(prediction: Mapping[str, Any]) -> str:
    """Write a prediction in a few words; one of a form that is not known here as it is."""
    if isinstance(unsure := prediction.get("uncertainty"), Mapping):
        plain = {key: value for key, value in prediction.items() if key != "uncertainty"}
        return f"{_words(plain)}, {', '.join(f'{key} {value:.2g}' for key, value in unsure.items())}"
    if "label" in prediction and "probability" in prediction:
        return f"{prediction['label']} ({prediction['probability']:.2f})"
    if "labels" in prediction and "probabilities" in prediction:
        chances = prediction["probabilities"]
        return ", ".join(f"{label} ({chances[label]:.2f})" for label in prediction["labels"]) or "no label"
    if set(prediction) == {"value"}:
        return f"{prediction['value']:.6g}"
    return ", ".join(f"{key} {value}" for key, value in prediction.items())
