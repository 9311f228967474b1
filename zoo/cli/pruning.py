"""``zoo prune``: a bundle's model made narrower, or its weights zero."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from zoo.cli.options import AsJson, BundleAt
from zoo.cli.output import say, say_json, speaks

__all__ = ["EXAMPLES", "prune"]

EXAMPLES = (
    "zoo prune my-model --macs 0.6 --out my-smaller-model\n\n"
    "zoo prune my-model --macs 0.6 --data photos --out my-smaller-model\n\n"
    "zoo prune my-model --macs 0.6 --importance taylor --data photos --out my-smaller-model\n\n"
    "zoo prune my-model --sparsity 0.8 --out my-sparse-model"
)


@speaks
def prune(
    bundle: BundleAt,
    out: Annotated[str, typer.Option(metavar="BUNDLE", help="Folder or URL of the new bundle.")],
    macs: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Share of the architecture's multiply-accumulates to be left.")
    ] = None,
    latency: Annotated[
        float | None, typer.Option(metavar="MS", help="Milliseconds that a picture may take on this CPU.")
    ] = None,
    sparsity: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Share of the weights that is to be zero.")
    ] = None,
    importance: Annotated[
        Literal["l1", "l2", "taylor", "random"] | None,
        typer.Option(help="By what the least important are told; l2, and l1 for --sparsity, by default."),
    ] = None,
    ranking: Annotated[
        Literal["local", "global"] | None,
        typer.Option(help="Whether a part is compared within its layer, as channels are by default, or with all."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help="Training rows, as for zoo fit, to measure norms anew, and for --importance taylor."
        ),
    ] = None,
    multiple_of: Annotated[int | None, typer.Option(metavar="N", help="Widths stay multiples of this; 8.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of --importance random.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Prune the backbones of a bundle's model into a new bundle, which is then to be trained on."""
    import zoo
    from zoo.cli.arguments import check_target
    from zoo.errors import ConfigError
    from zoo.model import Model

    check_target(out, overwrite=overwrite)
    model = zoo.load(bundle)
    if not isinstance(model, Model):
        raise ConfigError(f"{bundle} is an ensemble; prune its members one by one.")
    report = zoo.prune(
        model,
        macs=macs,
        latency=latency,
        sparsity=sparsity,
        importance=importance,
        ranking=ranking,
        data=data,
        multiple_of=multiple_of,
        seed=seed,
    )
    model.save(out, overwrite=overwrite)
    if as_json:
        return say_json({"path": out, **report.as_json()})
    say(f"parameters: {report.parameters_before:,} → {report.parameters_after:,}")
    if report.share is not None:
        say(f"multiply-accumulates: {report.macs_before:,} → {report.macs_after:,} ({report.share:.1%} of the whole)")
        say(f"one picture: {report.latency_before:.1f} ms → {report.latency_after:.1f} ms")
    if report.norms:
        say(f"norms measured anew: {report.norms}")
    if sparsity is not None:
        say(f"zero weights: {report.sparsity:.1%}")
    return say(f"{out}: pruned")
