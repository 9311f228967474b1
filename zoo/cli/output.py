"""What the command line writes: JSON, tables and lines; what comes from outside is made harmless first.

Names of files, classes, plugins and the like may hold anything. Consoles here know no markup, and every text passes
:func:`clean`. While a command runs, what libraries print goes to stderr; stdout holds what zoo says and nothing else.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import fields, is_dataclass
from typing import Any, ParamSpec, TextIO, TypeVar, cast

from zoo.cli.streams import PatientStream
from zoo.errors import escape

__all__ = [
    "clean",
    "complain",
    "note",
    "patient_streams",
    "plain",
    "progress",
    "say",
    "say_json",
    "say_table",
    "shown_log",
    "speaks",
]

P = ParamSpec("P")
R = TypeVar("R")
Item = TypeVar("Item")

_LONG = 200
"""Rows from which on a table is not drawn for a terminal: that would take longer than to find what is in it."""


def clean(text: object) -> str:
    r"""Write control, direction and other invisible characters as escapes; the result is one line.

    Example:
        >>> print(clean("red\x1b[31m\n"))
        red\x1b[31m\n
    """
    return escape(str(text))


# --- streams


@contextmanager
def patient_streams() -> Iterator[Callable[[], bool]]:
    """Make stdout and stderr patient for one run; gives a function that says, at the end, whether stdout failed."""
    before = sys.stdout, sys.stderr
    out, err = PatientStream(before[0]), PatientStream(before[1])
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield lambda: out.failure is not None
    finally:
        out.flush()
        if out.failure is not None:
            complain(f"The output cannot be written: {out.failure.strerror or out.failure}.")
        err.flush()
        sys.stdout, sys.stderr = before


_stdout: TextIO | None = None


def speaks(command: Callable[P, R]) -> Callable[P, R]:
    """Let only zoo write to stdout while a command runs; what libraries print goes to stderr."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        global _stdout
        before, _stdout = _stdout, sys.stdout
        try:
            with redirect_stdout(sys.stderr):
                return command(*args, **kwargs)
        finally:
            _stdout = before

    return run


@contextmanager
def shown_log(*, quiet: bool) -> Iterator[None]:
    """Show the log of zoo on stderr for one run: plain lines, only warnings if quiet; and one of torch not at all."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    logger = logging.getLogger("zoo")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    trees = logging.getLogger("torch.utils._pytree")
    trees.addFilter(_no_enums)
    try:
        yield
    finally:
        trees.removeFilter(_no_enums)
        logger.removeHandler(handler)
        logger.setLevel(level)


def _no_enums(record: logging.LogRecord) -> bool:
    """Leave out what torch says of torchao, which many libraries import where it is installed."""
    return "is an Enum subclass" not in str(record.msg)


class _Lines(logging.Formatter):
    """The message alone, cleaned; its own lines stay lines, those in the texts put into it do not."""

    def format(self, record: logging.LogRecord) -> str:
        args = record.args
        if isinstance(args, tuple) and record.msg != "%s":
            args = tuple(clean(arg) if isinstance(arg, str) else arg for arg in args)
        lines = (str(record.msg) % args if args else str(record.msg)).split("\n")
        mark = "warning: " if record.levelno >= logging.WARNING else ""
        return mark + "\n".join(map(clean, lines))


# --- saying


def say(line: object = "") -> None:
    """Write one line to stdout."""
    print(clean(line), file=_stdout or sys.stdout)


def note(line: object) -> None:
    """Write one line for the user beside the result, to stderr."""
    print(clean(line), file=sys.stderr)


def complain(error: object) -> None:
    """Write an error as one line to stderr; of several processes that were launched together, the first to fail."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from zoo.training.ranks import first_to_fail

        if not first_to_fail():
            return
    told = " ".join(str(error).split()) or type(error).__name__
    print(f"error: {clean(told)}", file=sys.stderr)


def say_json(value: Any, *, lines: bool = False) -> None:
    """Write a value as JSON to stdout: ASCII, so that no terminal and no encoding can alter it.

    Args:
        value: What to write.
        lines: Write a list with one item a line, which takes a tenth of the time.
    """
    if lines and value:
        told = ",\n ".join(json.dumps(item, allow_nan=False, default=plain) for item in value)
        print(f"[\n {told}\n]", file=_stdout or sys.stdout)
    else:
        print(json.dumps(plain(value), indent=2, allow_nan=False), file=_stdout or sys.stdout)


def plain(value: Any) -> Any:
    """Turn dataclasses, paths and the like into JSON; a number that is not finite becomes null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    return str(value)


def progress(items: Iterable[Item], what: str, *, total: int) -> Iterator[Item]:
    """Show on stderr how far a loop is, if that is a terminal; it leaves no trace."""
    from rich.console import Console
    from rich.progress import track

    shown = sys.stderr.isatty()
    yield from track(items, what, total=total, console=Console(stderr=True), transient=True, disable=not shown)


def say_table(headers: Sequence[str], rows: Sequence[Sequence[object]], *, numbers: Sequence[str] = ()) -> None:
    """Write a table to stdout; cut nowhere where no terminal sets a width.

    Args:
        headers: A name a column; all empty for a table without a head.
        rows: The cells; None is written as ``-``.
        numbers: The columns that are flush right.
    """
    stream = _stdout or sys.stdout
    cells = [["-" if cell is None else clean(cell) for cell in row] for row in rows]
    right = [header in numbers for header in headers]
    lines = [*([list(headers)] if any(headers) else []), *cells]
    if (stream.isatty() and len(cells) <= _LONG) or not all(cell.isascii() for line in lines for cell in line):
        return _draw_table(stream, headers, cells, right)
    wide = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, wide, right, strict=True))
        stream.write("  ".join(padded).rstrip() + "\n")
    return None


def _draw_table(stream: TextIO, headers: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]) -> None:
    """Have rich draw a table: it folds what is wider than the terminal, and knows how wide every character is."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=any(headers), padding=(0, 2, 0, 0))
    for header, flush_right in zip(headers, right, strict=True):
        table.add_column(header, justify="right" if flush_right else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    console = Console(
        file=stream,
        markup=False,
        emoji=False,
        highlight=False,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
        width=None if stream.isatty() else 10_000,
    )
    with console.capture() as drawn:
        console.print(table)
    stream.write("\n".join(line.rstrip() for line in drawn.get().split("\n")))
