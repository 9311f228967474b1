"""``zoo inspect`` and ``zoo diff``: what a bundle says of itself, and what differs between two."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.options import AsJson, BundleAt
from zoo.cli.output import say, say_json, say_table, speaks

if TYPE_CHECKING:
    from zoo.bundle.comparing import BundleDiff, Change
    from zoo.bundle.inspecting import Inspection
    from zoo.bundle.states import TensorRow

__all__ = ["diff", "inspect"]

INSPECT_EXAMPLES = "zoo inspect my-model\n\nzoo inspect my-model --tensors --json"
DIFF_EXAMPLES = "zoo diff my-model my-other-model\n\nzoo diff before after --json > differences.json"

_MOST_CLASSES = 20


@speaks
def inspect(
    bundle: BundleAt,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a bundle holds, from its manifest and headers alone; nothing is built, no digest is checked."""
    import zoo

    found = zoo.inspect(bundle)
    if as_json:
        return say_json(found.as_json(tensors=tensors))
    _say_bundle(found, tensors=tensors)
    for member in found.members:
        say()
        say(f"member {member.name}" + (f", in {member.path}" if member.path else ""))
        if member.found is None:
            say(f"problem: {member.problem}")
        else:
            _say_bundle(member.found, tensors=tensors)
    return None


def _say_bundle(found: Inspection, *, tensors: bool) -> None:
    probe = found.probe
    rows: list[tuple[str, object]] = [
        ("kind", found.kind),
        ("id", found.id),
        ("created", ", ".join(f"{key} {value}" for key, value in found.created.items())),
        ("format", found.format_version),
        ("files", f"{len(found.files)} of {found.bytes:,} bytes"),
        ("tensors", f"{len(found.tensors)} of {sum(one.bytes for one in found.tensors):,} bytes"),
        ("based on", "; ".join(f"{stream}: {base['label']}" for stream, base in found.bases.items())),
        ("adapters", "; ".join(f"{a['name']} on {a['stream']}, rank {a['rank']}" for a in found.adapters)),
        ("tied", "; ".join(" = ".join(group) for group in found.tied)),
        ("layouts", "; ".join(f"{layout}: {len(names)} tensors" for layout, names in found.memory_formats.items())),
        ("licences", "; ".join(f"{stream}: {text}" for stream, text in found.licenses.items())),
        ("probe", None if probe is None else f"seed {probe['seed']}, for {', '.join(probe['outputs'])}"),
        ("ensemble", None if found.ensemble is None else _short(found.ensemble)),
        ("provenance", _short(found.provenance) if found.provenance else None),
    ]
    say_table(("", ""), [row for row in rows if row[1] not in (None, "")])
    _part(
        ("stream", "backbone", "reads", "library", "stages", "frozen", "weights"),
        [
            (
                one.name,
                one.reference,
                one.input if one.shares is None else f"{one.input}, by {one.shares}",
                f"{one.library} {one.library_version}",
                " ".join(one.stages),
                " ".join(one.frozen) or None,
                one.weights,
            )
            for one in found.streams
        ],
    )
    _part(
        ("head", "type", "classes"),
        [
            (one.name if one.within is None else f"{one.within}/{one.name}", one.type, _classes(one.classes))
            for one in found.heads
        ],
    )
    _part(
        ("plugin", "package", "saved with", "installed"),
        [(one.name, one.distribution, one.version, one.installed or "no") for one in found.requires],
    )
    if tensors:
        _part(
            ("file", "tensor", "dtype", "shape", "bytes"),
            [(one.file, one.name, one.dtype, "×".join(map(str, one.shape)), one.bytes) for one in found.tensors],
            numbers=("bytes",),
        )


def _part(headers: Sequence[str], rows: Sequence[Sequence[object]], *, numbers: Sequence[str] = ()) -> None:
    if rows:
        say()
        say_table(headers, rows, numbers=numbers)


def _classes(classes: Sequence[str] | None) -> str | None:
    if classes is None:
        return None
    more = f" and {len(classes) - _MOST_CLASSES} more" if len(classes) > _MOST_CLASSES else ""
    return ", ".join(classes[:_MOST_CLASSES]) + more


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# --- zoo diff


@speaks
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="Folder or URL of a bundle.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="Folder or URL of another.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Say what differs between two bundles; exit code 0 if nothing does, 1 if something does."""
    import zoo

    found = zoo.diff(a, b)
    if as_json:
        say_json(found.as_json())
    else:
        _say_diff(found)
    if not found.equal:
        raise typer.Exit(1)


def _say_diff(found: BundleDiff, member: str = "") -> None:
    if found.equal:
        say(f"{member or 'the bundles'}: nothing differs")
        return
    before = f"{member}: " if member else ""
    for section in ("versions", "spec", "preprocessing", "metrics", "provenance", "files"):
        for change in getattr(found, section):
            say(f"{before}{section}: {_told(change)}")
    for label in found.labels:
        moved = [f"{name} from {old} to {new}" for name, (old, new) in label.moved.items()]
        for what, names in (("added", label.added), ("removed", label.removed), ("moved", moved)):
            if names:
                say(f"{before}labels: {label.head}: {what} {', '.join(names)}")
    _say_tensors([row for row in found.tensors if not row.same], before)
    for name, inner in found.members.items():
        _say_diff(inner, f"{member}/{name}" if member else f"member {name}")


def _say_tensors(rows: Sequence[TensorRow], before: str) -> None:
    if not rows:
        return
    say(f"{before}tensors:")
    headers = ("part", "stage", "equal", "changed", "added", "removed", "largest change", "relative")
    cells = [
        (
            row.part,
            row.stage or f"({row.module})",
            row.equal,
            row.changed,
            row.added,
            row.removed,
            _number(row.absolute),
            _number(row.relative),
        )
        for row in rows
    ]
    say_table(headers, cells, numbers=headers[2:])


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3g}"


def _told(change: Change) -> str:
    return f"{change.path}: {_short(change.before)} → {_short(change.after)}"
