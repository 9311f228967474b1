"""``zoo plugins`` and ``zoo doctor``: what is installed, and whether it is well."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

import typer

from zoo.cli.options import AsJson
from zoo.cli.output import note, say, say_json, say_table, speaks

if TYPE_CHECKING:
    from zoo.registry import PluginStatus

__all__ = ["doctor", "list_given", "plugins"]

log = logging.getLogger("zoo")

PLUGINS_EXAMPLES = "zoo plugins --json\n\nZOO_DISABLE_PLUGINS=name,name leaves plugins out."
DOCTOR_EXAMPLES = "zoo doctor\n\nzoo doctor --json > report.json"


@speaks
def plugins(as_json: AsJson = False) -> None:
    """List the plugins, what each gives, and which are broken."""
    from zoo.registry import list_plugins

    statuses = list_plugins()
    told = [{**_told(status), "backbones": _backbones(status)} for status in statuses]
    if as_json:
        return say_json(told)
    rows = [
        (one["name"], one["distribution"], one["version"], one["state"], one["backbones"], *map(_names, _given(one)))
        for one in told
    ]
    say_table(("plugin", "package", "version", "state", "backbones", "heads", "methods"), rows, numbers=("backbones",))
    for status in statuses:
        if status.problem is not None:
            say(f"{status.name}: {status.problem}")
    return None


def _told(status: PluginStatus) -> dict[str, Any]:
    told = {field: getattr(status, field) for field in type(status).__slots__}
    return {**told, "state": "ok" if status.ok else _state(status)}


def _state(status: PluginStatus) -> str:
    from zoo.registry import registry

    return "claimed twice" if len(registry().claims.get(status.name, ())) > 1 else "broken"


def _backbones(status: PluginStatus) -> int | None:
    """Count the architectures of a provider; None if it is none, or its catalog cannot be had."""
    from zoo.catalog import catalog_of

    if not status.provider:
        return None
    try:
        return len(catalog_of(status.name).entries)
    except Exception:  # a stranger's provider may raise anything; doctor says what
        return None


def _given(one: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return one["heads"], one["methods"]


def _names(names: tuple[str, ...]) -> str | None:
    return ", ".join(names) or None


# --- zoo list --heads, --methods


def list_given(kind: Literal["heads", "methods"], pattern: str, limit: int | None, *, as_json: bool) -> None:
    """List the head types or training methods of all plugins that work, each with its one-line summary."""
    rows = given_rows(kind, pattern)[:limit]
    if as_json:
        return say_json(rows)
    if not rows:
        return note(f"No {kind.removesuffix('s')} matches.")
    named = (kind.removesuffix("s"), "plugin", "summary")
    return say_table(named, [(row["name"], row["plugin"], row["summary"]) for row in rows])


def given_rows(kind: Literal["heads", "methods"], pattern: str) -> list[dict[str, str | None]]:
    """Tell of the head types or training methods of all plugins that work: whose they are and what they say.

    Args:
        kind: Which of the two.
        pattern: Part of a name, or a pattern with ``*`` and ``?``.
    """
    import fnmatch

    from zoo.registry import list_plugins, registry

    for status in list_plugins():
        if status.problem is not None:
            log.warning("%s", status.problem)
    wild = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    return [
        {"name": name, "plugin": plugin.name, "distribution": plugin.distribution, **_said(kind, name)}
        for name, plugin in registry().names(kind).items()
        if fnmatch.fnmatchcase(name, wild)
    ]


def _said(kind: Literal["heads", "methods"], name: str) -> dict[str, str | None]:
    from zoo.errors import ZooError
    from zoo.registry import registry

    find = registry().head_class if kind == "heads" else registry().method_class
    words = ("summary",) if kind == "heads" else ("summary", "when")
    try:
        return {word: getattr(find(name), word, "") or None for word in words}
    except ZooError as error:
        return {**dict.fromkeys(words), "summary": f"broken: {error}"}


# --- zoo doctor


@speaks
def doctor(as_json: AsJson = False) -> None:
    """Say what zoo runs on, and whether it is well; exit code 1 if not."""
    from zoo.cli.health import examine

    found = examine()
    problems: list[str] = found["problems"]
    if as_json:
        say_json(found)
    else:
        _say_health(found)
    if problems:
        raise typer.Exit(1)


def _say_health(found: dict[str, Any]) -> None:
    cache = found["cache"]
    state = "writable" if cache["writable"] else "not writable"
    rows: list[tuple[str, object]] = [("python", found["python"]), ("platform", found["platform"])]
    rows += list(found["versions"].items())
    rows += [("cores", found["devices"]["cores"])]
    rows += [(f"device {one['device']}", one["name"]) for one in found["devices"]["accelerators"]]
    rows += [("cache", f"{cache['folder']} ({cache['bytes'] / 1e6:.1f} MB, {state})")]
    rows += [
        (f"plugin {one['name']}", f"{one['distribution']} {one['version']}: {one['state']}") for one in found["plugins"]
    ]
    say_table(("", ""), rows)
    say()
    for problem in found["problems"]:
        say(f"problem: {problem}")
    if not found["problems"]:
        say("All is well.")
