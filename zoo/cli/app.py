"""The commands of ``zoo``, put together."""

from __future__ import annotations

import functools
import os
from typing import Annotated, Any

import typer

from zoo.cli import (
    advising,
    bundles,
    caching,
    catalog,
    chaining,
    conformance,
    converting,
    demonstration,
    ensembles,
    episodes,
    inspecting,
    methods,
    planning,
    plugins,
    prediction,
    pruning,
    quantizing,
    rates,
    runfile,
    searching,
    signing,
    storing,
    training,
)

__all__ = ["UsageFault", "app", "run", "usage"]

# typer has no public name for the root of what a wrong invocation raises; below it are UsageError and BadParameter.
UsageFault: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="zoo",
    help="Pretrained backbones from anywhere, your heads on them: find, train, predict, check.",
    epilog="Begin with: zoo list 'mobilenet*' --max-params 5M\n\nThen: zoo fit pictures/ --backbone timm:mobilenetv3 "
    "--out my-model\n\nThen: zoo predict my-model picture.jpg\n\n"
    "Exit codes: 0 success, 1 the thing asked for is not well, 2 wrong usage or an error.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def zoo(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="On stderr, show warnings only.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Pretrained backbones from anywhere, your heads on them: find, train, predict, check."""
    # quiet and debug are read by zoo.cli.main, which lets them stand anywhere; here they are only declared.
    if version:
        from zoo import __version__

        typer.echo(f"zoo {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


FIND, TRAIN, LOOK, EXCHANGE = "Find", "Train and use", "Check", "Exchange"

app.command("list", epilog=catalog.LIST_EXAMPLES, rich_help_panel=FIND)(catalog.list_backbones)
app.command("info", epilog=catalog.INFO_EXAMPLES, rich_help_panel=FIND)(catalog.info)
app.command("methods", epilog=methods.EXAMPLES, rich_help_panel=FIND)(methods.methods)
app.command("resolve", epilog=catalog.RESOLVE_EXAMPLES, rich_help_panel=FIND)(catalog.resolve)
catalogs = typer.Typer(invoke_without_command=True, callback=catalog.catalogs)
catalogs.command("build", epilog=catalog.BUILD_EXAMPLES)(catalog.build)
app.add_typer(catalogs, name="catalog", epilog=catalog.BUILD_EXAMPLES, rich_help_panel=LOOK)
app.command("advise", epilog=advising.EXAMPLES, rich_help_panel=TRAIN)(advising.advise)
app.command("fit", epilog=training.FIT_EXAMPLES, rich_help_panel=TRAIN)(training.fit)
app.command("plan", epilog=planning.EXAMPLES, rich_help_panel=TRAIN)(planning.plan)
app.command("find-lr", epilog=rates.EXAMPLES, rich_help_panel=TRAIN)(rates.find_lr)
app.command("chain", epilog=chaining.EXAMPLES, rich_help_panel=TRAIN)(chaining.chain)
app.command("search", epilog=searching.EXAMPLES, rich_help_panel=TRAIN)(searching.search)
app.command("schema", epilog=runfile.EXAMPLES, rich_help_panel=TRAIN)(runfile.schema)
app.command("evaluate", epilog=training.EVALUATE_EXAMPLES, rich_help_panel=TRAIN)(training.evaluate)
app.command("episodes", epilog=episodes.EXAMPLES, rich_help_panel=TRAIN)(episodes.episodes)
app.command("predict", epilog=prediction.EXAMPLES, rich_help_panel=TRAIN)(prediction.predict)
committee = typer.Typer(invoke_without_command=True, callback=ensembles.ensembles)
committee.command("build", epilog=ensembles.BUILD_EXAMPLES)(ensembles.build)
committee.command("evaluate", epilog=ensembles.EVALUATE_EXAMPLES)(ensembles.evaluate)
app.add_typer(committee, name="ensemble", epilog=ensembles.EXAMPLES, rich_help_panel=TRAIN)
app.command("prune", epilog=pruning.EXAMPLES, rich_help_panel=TRAIN)(pruning.prune)
app.command("quantize", epilog=quantizing.EXAMPLES, rich_help_panel=TRAIN)(quantizing.quantize)
app.command("demo", epilog=demonstration.EXAMPLES, rich_help_panel=TRAIN)(demonstration.demo)
storage = typer.Typer(invoke_without_command=True, callback=storing.store)
storage.command("list", epilog=storing.LIST_EXAMPLES)(storing.list_stored)
storage.command("add", epilog=storing.ADD_EXAMPLES)(storing.add)
storage.command("verify", epilog=storing.VERIFY_EXAMPLES)(storing.verify)
storage.command("gc", epilog=storing.GC_EXAMPLES)(storing.collect)
keeping = typer.Typer(invoke_without_command=True, callback=caching.cache)
keeping.command("list", epilog=caching.LIST_EXAMPLES)(caching.list_cached)
keeping.command("clear", epilog=caching.CLEAR_EXAMPLES)(caching.clear)
app.add_typer(keeping, name="cache", epilog=caching.EXAMPLES, rich_help_panel=LOOK)
app.add_typer(storage, name="store", epilog=storing.EXAMPLES, rich_help_panel=LOOK)
app.command("verify", epilog=bundles.EXAMPLES, rich_help_panel=LOOK)(bundles.verify)
app.command("inspect", epilog=inspecting.INSPECT_EXAMPLES, rich_help_panel=LOOK)(inspecting.inspect)
app.command("diff", epilog=inspecting.DIFF_EXAMPLES, rich_help_panel=LOOK)(inspecting.diff)
app.command("convert", epilog=converting.CONVERT_EXAMPLES, rich_help_panel=EXCHANGE)(converting.convert)
app.command("export", epilog=converting.EXPORT_EXAMPLES, rich_help_panel=EXCHANGE)(converting.export)
app.command("upgrade", epilog=converting.UPGRADE_EXAMPLES, rich_help_panel=EXCHANGE)(converting.upgrade)
app.command("sign", epilog=signing.EXAMPLES, rich_help_panel=LOOK)(signing.sign)
app.command("check", epilog=conformance.EXAMPLES, rich_help_panel=LOOK)(conformance.check)
app.command("plugins", epilog=plugins.PLUGINS_EXAMPLES, rich_help_panel=LOOK)(plugins.plugins)
app.command("doctor", epilog=plugins.DOCTOR_EXAMPLES, rich_help_panel=LOOK)(plugins.doctor)


def run(args: list[str]) -> int:
    """Run one command; what it raises is the caller's.

    Returns:
        The exit code that the command asked for, 0 if none.
    """
    if os.environ.get("NO_COLOR"):
        from typer import rich_utils

        rich_utils.COLOR_SYSTEM = None
    code = _command().main(args, prog_name="zoo", standalone_mode=False)
    return code if isinstance(code, int) else 0


@functools.cache
def _command() -> Any:
    """Give the commands as click has them; every signature is read for that, so once a process."""
    return typer.main.get_command(app)


def usage(error: Any) -> str:
    """Write a wrong invocation as one sentence that names the option or argument."""
    told = str(error.format_message())
    return told if told.endswith((".", "?", ")")) else f"{told}."
