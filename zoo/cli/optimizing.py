"""Options of the optimizer and its schedule, which ``zoo fit`` and ``zoo plan`` share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["OptimizerName", "OptimizerSettings", "ScheduleName", "ScheduleSettings", "Warmup", "WeightDecay"]

WeightDecay = Annotated[float, typer.Option(help="Weight decay of matrices.")]
Warmup = Annotated[float | None, typer.Option(metavar="SHARE", help="Share of the steps that warms up.")]
OptimizerName = Annotated[str, typer.Option("--optimizer", metavar="NAME", help="A class of torch.optim, in any case.")]
OptimizerSettings = Annotated[
    list[str] | None,
    typer.Option("--set-optimizer", metavar="KEY=VALUE", help="Setting of the optimizer. Repeatable."),
]
ScheduleName = Annotated[
    str, typer.Option("--schedule", metavar="NAME", help="cosine, linear, constant, one_cycle, plateau.")
]
ScheduleSettings = Annotated[
    list[str] | None,
    typer.Option("--set-schedule", metavar="KEY=VALUE", help="Setting of the schedule. Repeatable."),
]
