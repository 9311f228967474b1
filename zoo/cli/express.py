"""``zoo list``, ``zoo info`` and ``zoo resolve`` where they are plainly written, without typer.

typer, and pydantic with it, take longer to import than these commands take to answer. So they are read here; anything
out of the ordinary, be it ``--help``, a mistake or an abbreviation, is left to typer, which then says what is wrong.
What typer declares in ``catalog`` and what stands here is the same, by test.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

__all__ = ["COMMANDS", "Kind", "answer"]

Kind = Literal["flag", "text", "texts", "number"] | tuple[str, ...]

_LIST: dict[str, tuple[str, Kind]] = {
    "--provider": ("provider", "text"),
    "--modality": ("modality", "text"),
    "--needs": ("needs", "texts"),
    "--min-params": ("min_params", "text"),
    "--max-params": ("max_params", "text"),
    "--size": ("size", "text"),
    "--max-size": ("max_size", "number"),
    "--tag": ("tag", "text"),
    "--license": ("license", "text"),
    "--pretrained": ("pretrained", "flag"),
    "--sort": ("sort", ("name", "parameters")),
    "--heads": ("heads", "flag"),
    "--methods": ("methods", "flag"),
    "--limit": ("limit", "number"),
    "--json": ("as_json", "flag"),
}
COMMANDS: dict[str, dict[str, tuple[str, Kind]]] = {
    "list": _LIST,
    "info": {"--spec": ("spec", "flag"), "--json": ("as_json", "flag")},
    "resolve": {"--json": ("as_json", "flag")},
}
"""Command to its options: the keyword of each, and what follows it; a tuple has all the values there are."""


def answer(argv: Sequence[str]) -> int | None:
    """Answer one command.

    Args:
        argv: What was typed after ``zoo``.

    Returns:
        0, or None if this is not for here; then nothing has been done.

    Raises:
        ZooError: What the command itself raises.
    """
    if not argv or argv[0] not in COMMANDS or "_ZOO_COMPLETE" in os.environ:
        return None
    read = _read(argv[1:], COMMANDS[argv[0]])
    if read is None:
        return None
    words, options = read
    if len(words) > 1 or (argv[0] != "list" and not words):
        return None
    from zoo.cli import finding

    commands: dict[str, Callable[..., None]] = {
        "list": finding.give_list,
        "info": finding.give_info,
        "resolve": finding.give_resolution,
    }
    commands[argv[0]](*words, **options)
    return 0


def _read(argv: Sequence[str], known: dict[str, tuple[str, Kind]]) -> tuple[list[str], dict[str, Any]] | None:
    """Read words and options; None for what is not plain."""
    words: list[str] = []
    options: dict[str, Any] = {}
    left = list(argv)
    while left:
        text = left.pop(0)
        if not text.startswith("-"):
            words.append(text)
            continue
        option, equals, value = text.partition("=")
        keyword, kind = known.get(option, ("", "flag"))
        if not keyword or (keyword in options and kind != "texts") or (kind == "flag" and equals):
            return None
        if kind != "flag" and not equals:
            if not left or left[0].startswith("-"):
                return None
            value = left.pop(0)
        if (kind == "number" and not _is_count(value)) or (isinstance(kind, tuple) and value not in kind):
            return None
        if kind == "texts":
            options[keyword] = (*options.get(keyword, ()), value)
        else:
            options[keyword] = True if kind == "flag" else int(value) if kind == "number" else value
    return words, options


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0
