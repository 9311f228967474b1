"""The command that was typed, written again with one more option."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import typer

__all__ = ["typed_again"]


def typed_again(context: typer.Context, *more: str) -> str:
    """Write the command that was typed, in words that a shell reads, and add options to it.

    What came from a run file is not repeated: the file's name is.

    Args:
        context: The command's.
        more: Options to add where they are not there yet, such as ``--resume``.
    """
    given = [one for one in context.command.params if _is_typed(context, one.name)]
    words = ["zoo", *_path(context)]
    for one in given:
        if one.param_type_name == "argument":
            words += map(str, _values(context.params[one.name or ""]))
    for one in given:
        value = context.params[one.name or ""]
        if one.param_type_name == "argument":
            continue
        name = max(one.opts, key=len)
        if isinstance(value, bool):
            words.append(name if value else max(one.secondary_opts, key=len, default=name))
        else:
            words += [word for each in _values(value) for word in (name, str(each))]
    return shlex.join([*words, *(option for option in more if option not in words)])


def _is_typed(context: typer.Context, name: str | None) -> bool:
    source = context.get_parameter_source(name or "")
    return source is not None and source.name == "COMMANDLINE"


def _path(context: typer.Context) -> list[str]:
    """Name the command below ``zoo``."""
    return context.command_path.split()[1:]


def _values(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return list(value)
    return [value] if value is None or isinstance(value, (str, int, float, Path)) else [str(value)]
