"""``zoo quantize``: a bundle's model that computes with integers of eight bits."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from zoo.cli.options import AsJson, BundleAt
from zoo.cli.output import say, say_json, speaks

__all__ = ["EXAMPLES", "quantize"]

EXAMPLES = (
    "zoo quantize my-model photos --out my-int8-model\n\n"
    "zoo quantize my-model photos --observer histogram --calibration-rows 512 --out my-int8-model"
)


@speaks
def quantize(
    bundle: BundleAt,
    data: Annotated[str, typer.Argument(metavar="DATA", help="Data by which ranges are found, as for zoo fit.")],
    out: Annotated[str, typer.Option(metavar="BUNDLE", help="Folder or URL of the new bundle.")],
    observer: Annotated[
        Literal["minmax", "histogram"],
        typer.Option(help="By what ranges are found: all that is seen, or the least squared error."),
    ] = "minmax",
    calibration_rows: Annotated[int, typer.Option(metavar="N", help="Rows that are looked at, evenly spread.")] = 256,
    stream: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A stream to quantize; may be repeated. All by default.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Quantize the backbones of a bundle's model to int8, after training, into a new bundle."""
    import zoo
    from zoo.cli.arguments import check_target
    from zoo.errors import ConfigError
    from zoo.model import Model

    check_target(out, overwrite=overwrite)
    model = zoo.load(bundle)
    if not isinstance(model, Model):
        raise ConfigError(f"{bundle} is an ensemble; quantize its members one by one.")
    report = zoo.quantize(model, data, observer=observer, calibration_rows=calibration_rows, streams=stream or None)
    model.save(out, overwrite=overwrite)
    if as_json:
        return say_json({"path": out, **report.as_json()})
    say(f"{report.layers} layers in int8 ({report.weights:.1%} of the parameters), {len(report.left)} in float")
    say(f"ranges: {report.places}, found on {report.rows} rows")
    if report.agreement is not None:
        say(f"same class as in float: {report.agreement:.1%} of these rows")
    return say(f"{out}: quantized")
