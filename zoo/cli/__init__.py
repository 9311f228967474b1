"""The command line: ``zoo COMMAND``; nothing heavy is imported before a command needs it.

    main        the error fence: exit codes, one line for an error, no traceback without ``--debug``
    express     the commands that only look something up, read without typer
    app         the commands and their help
    output      JSON, tables and lines; what comes from outside is made harmless before it is printed

Exit codes: 0 success; 1 the thing asked for is not well; 2 wrong usage or an error; 130 interrupted; 143
terminated.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

__all__ = ["main"]

INTERRUPTED = 130
"""The exit code after Ctrl-C."""
TERMINATED = 143
"""The exit code after SIGTERM, by which systems and schedulers ask a process to end."""

_ANYWHERE = ("--debug", "--quiet")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: What was typed after ``zoo``; None for this process's own arguments.

    Returns:
        The exit code: 0, 1, 2, 130 after Ctrl-C, or 143 after SIGTERM.
    """
    from zoo.cli.output import patient_streams, shown_log

    flags, rest = _apart(list(sys.argv[1:] if argv is None else argv))
    with patient_streams() as failed, shown_log(quiet="--quiet" in flags), _terminable():
        code = _fenced([*flags, *rest], debug="--debug" in flags)
    return 2 if failed() else code


class _Terminated(BaseException):
    """Raised by SIGTERM, so that what is half done is cleared up as after Ctrl-C."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Have SIGTERM raise, unless the program that we run in has a way of its own."""

    def stop(number: int, frame: object) -> None:
        raise _Terminated

    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _apart(argv: list[str]) -> tuple[list[str], list[str]]:
    """Take out the options of ``zoo`` itself, which may stand anywhere before a bare ``--``."""
    end = argv.index("--") if "--" in argv else len(argv)
    flags = [flag for flag in _ANYWHERE if flag in argv[:end]]
    return flags, [*(arg for arg in argv[:end] if arg not in _ANYWHERE), *argv[end:]]


def _fenced(args: list[str], *, debug: bool) -> int:
    """Run the command inside the fence."""
    from zoo.cli.express import answer
    from zoo.cli.output import complain
    from zoo.errors import ZooError

    try:
        code = answer([arg for arg in args if arg not in _ANYWHERE])
        if code is None:
            code = _run(args)
        if code == INTERRUPTED:  # typer has turned Ctrl-C into this code
            complain("interrupted")
        return code
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except _Terminated:
        complain("terminated")
        return TERMINATED
    except ZooError as error:
        _trace(debug=debug)
        complain(error)
        return 2
    except SystemExit as end:
        if isinstance(end.code, int) or end.code is None:
            return end.code or 0
        return _unexpected(end, debug=debug)
    except Exception as error:
        return _unexpected(error, debug=debug)


def _run(args: list[str]) -> int:
    """Have typer read the command and run it; a wrong invocation is told in one line."""
    from zoo.cli.app import UsageFault, run, usage
    from zoo.cli.output import complain

    try:
        return run(args)
    except UsageFault as error:
        complain(usage(error))
        return 2


def _unexpected(error: BaseException, *, debug: bool) -> int:
    from zoo.cli.output import complain

    _trace(debug=debug)
    hint = "" if debug else " (run again with --debug for the traceback)"
    complain(f"{type(error).__name__}: {error}{hint}")
    return 2


def _trace(*, debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exc()
