"""Comparing two bundles: what differs, without building a model; tensors are read one after the other.

Files whose digests are equal are taken to be equal; :func:`zoo.verify` says whether digests are true.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zoo.bundle.ensemble_loading import check_member, place_of
from zoo.bundle.folder import BundleFolder, open_bundle
from zoo.bundle.inspecting import classes_of, flat_heads
from zoo.bundle.manifest import EnsembleManifest, Manifest, MemberEntry
from zoo.bundle.paths import bundle_path
from zoo.bundle.states import TensorRow, compare_tensors
from zoo.errors import BundleError
from zoo.spec import HeadSpec
from zoo.strict import to_json

__all__ = ["BundleDiff", "Change", "LabelChange", "diff"]

ABSENT = "(absent)"
"""Stands for a value that one side has not."""

_DERIVED = ("README.md", "config.json")


@dataclass(frozen=True, slots=True)
class Change:
    """A field that differs.

    Args:
        path: Its path, such as ``streams.main.backbone.pooled_dim``.
        before: Its value in the first bundle; ``(absent)`` if it is not there.
        after: Its value in the second.
    """

    path: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class LabelChange:
    """How the classes of a head differ.

    Args:
        head: The head, with the combinators that hold it: ``all/pets``.
        added: Classes of the second bundle only.
        removed: Classes of the first bundle only.
        moved: Classes of both that have another place among the logits: name to places before and after.
    """

    head: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    moved: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class BundleDiff:
    """What differs between two bundles; when and under which id they were saved is no difference.

    Args:
        a: Folder of the first bundle.
        b: Folder of the second.
        ids: Their ids.
        spec: Fields of the model that differ: kind, streams, heads, bases, frozen stages, ties, layouts, licences.
        tensors: For each part and stage how many tensors are equal, changed, added and removed.
        labels: Classes that differ.
        preprocessing: Fields of the preprocessing that differ.
        metrics: Metrics in the provenance that differ.
        provenance: What else differs in the provenance.
        versions: Versions that differ: of the format, zoo, torch, Python, libraries and plugins.
        files: Other files that differ, such as a tokenizer's: their sizes and digests.
        members: Member of both ensembles to what differs between its bundles; members of one side are in ``spec``.
    """

    a: str
    b: str
    ids: tuple[str, str]
    spec: tuple[Change, ...] = ()
    tensors: tuple[TensorRow, ...] = ()
    labels: tuple[LabelChange, ...] = ()
    preprocessing: tuple[Change, ...] = ()
    metrics: tuple[Change, ...] = ()
    provenance: tuple[Change, ...] = ()
    versions: tuple[Change, ...] = ()
    files: tuple[Change, ...] = ()
    members: Mapping[str, BundleDiff] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        told = (self.spec, self.labels, self.preprocessing, self.metrics, self.provenance, self.versions, self.files)
        inside = all(one.equal for one in self.members.values())
        return inside and not any(told) and all(row.same for row in self.tensors)

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values; a change of a tensor that is not finite is None."""
        told = asdict(self)
        for row in told["tensors"]:
            for key in ("absolute", "relative"):
                row[key] = row[key] if row[key] is not None and math.isfinite(row[key]) else None
        return {**told, "members": {name: one.as_json() for name, one in self.members.items()}, "equal": self.equal}


def diff(a: str | Path, b: str | Path) -> BundleDiff:
    """Say what differs between two bundles, without building their models.

    Args:
        a: Folder of the first bundle.
        b: Folder of the second; of an ensemble's, members of one name are compared.

    Returns:
        What differs, by field, and tensors by stage.

    Raises:
        BundleError: If one is no bundle, or is damaged.

    Example:
        >>> import tempfile, zoo
        >>> model = zoo.build("timm:test_resnet", zoo.head("classifier", classes=["cat", "dog"]), weights=None)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     one, two = model.save(f"{folder}/one"), model.save(f"{folder}/two")
        ...     zoo.diff(one, two).equal
        True
    """
    first, second = bundle_path(a), bundle_path(b)
    return open_bundle(first, lambda one: open_bundle(second, lambda other: _compare(one, other)))


def _compare(one: BundleFolder, other: BundleFolder) -> BundleDiff:
    before, after = one.manifest(), other.manifest()
    pair = before[0], after[0]
    old, new = map(_told, pair)
    changes = list(_changes(old, new))
    labels = tuple(_labels(_classes(pair[0]), _classes(pair[1])))
    known = {f"heads.{label.head}.classes" for label in labels}
    sorted_changes = {section: tuple(c for c in changes if _section(c.path) == section) for section in _SECTIONS}
    spec = tuple(change for change in sorted_changes.pop("spec") if change.path not in known)
    return BundleDiff(
        a=str(one.path),
        b=str(other.path),
        ids=(before[1], after[1]),
        spec=spec,
        labels=labels,
        tensors=compare_tensors((one, pair[0]), (other, pair[1])),
        files=tuple(_files(pair[0], pair[1])),
        members=_members((one, pair[0]), (other, pair[1])),
        **sorted_changes,
    )


# --- the manifest as one tree of fields


_SECTIONS = ("spec", "preprocessing", "metrics", "provenance", "versions")
_VERSIONS = ("format_version", "min_reader", "created", "requires")


def _section(path: str) -> str:
    first, _, rest = path.partition(".")
    if first in _VERSIONS or path.endswith(".library_version"):
        return "versions"
    if first == "provenance":
        return "metrics" if rest.partition(".")[0] == "metrics" else "provenance"
    return "preprocessing" if first == "streams" and ".backbone.preprocessing" in path else "spec"


def _told(manifest: Manifest | EnsembleManifest) -> dict[str, Any]:
    """Write a manifest as the tree that is compared; lists of named things become mappings, their order a list."""
    told: dict[str, Any] = {
        "kind": manifest.kind,
        "format_version": manifest.format_version,
        "min_reader": manifest.min_reader,
        "created": {k: v for k, v in to_json(manifest.created).items() if k != "at"},
        "provenance": to_json(manifest)["provenance"],
    }
    if isinstance(manifest, EnsembleManifest):
        spec = to_json(manifest.ensemble)
        names = [member.name for member in manifest.members]
        return {**told, "ensemble": {**{k: v for k, v in spec.items() if k != "members"}, "members": names}}
    data = to_json(manifest)
    streams = {name: dict(stream) for name, stream in data["model"]["streams"].items()}
    for stream in streams.values():
        stream["backbone"] = {**stream["backbone"], "stages": _by_name(stream["backbone"]["stages"])}
    heads = {
        _path(head, within): {"type": head.type, **_settings(head), "classes": list(classes_of(head) or ()) or None}
        for head, within in flat_heads(manifest.model.heads)
    }
    order = {"streams": list(manifest.streams), "heads": [head.name for head in manifest.model.heads]}
    kept = {key: data[key] for key in ("bases", "tied", "memory_formats", "frozen", "licenses")}
    kept["adapters"] = _by_name(data["adapters"])
    for adapter in kept["adapters"].values():
        del adapter["state_digest"]
    plugins = {entry["name"]: f"{entry['distribution']} {entry['version']}" for entry in data["requires"]}
    return {**told, "streams": streams, "heads": heads, "order": order, **kept, "requires": plugins}


def _path(head: HeadSpec, within: str | None) -> str:
    return head.name if within is None else f"{within}/{head.name}"


def _settings(head: HeadSpec) -> dict[str, Any]:
    """Give a head's settings; those of heads inside it stand under their own names."""
    return {key: _listed(value) for key, value in head.config.items() if key not in ("heads", "head", "classes")}


def _listed(value: Any) -> Any:
    """Turn tuples into lists, at every depth, so that equal settings compare equal."""
    if isinstance(value, Mapping):
        return {key: _listed(inner) for key, inner in value.items()}
    return [_listed(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _by_name(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {row["name"]: row for row in rows}


def _changes(before: Any, after: Any, path: str = "") -> Iterator[Change]:
    """Walk two trees; what is a mapping on both sides is entered, everything else is one value."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys((*before, *after)):
            inner = f"{path}.{key}" if path else str(key)
            yield from _changes(before.get(key, ABSENT), after.get(key, ABSENT), inner)
    elif before != after or type(before) is not type(after):
        yield Change(path, before, after)


# --- labels, files, members


def _classes(manifest: Manifest | EnsembleManifest) -> dict[str, tuple[str, ...]]:
    if isinstance(manifest, EnsembleManifest):
        return {}
    found = {_path(head, within): classes_of(head) for head, within in flat_heads(manifest.model.heads)}
    return {path: classes for path, classes in found.items() if classes is not None}


def _labels(before: Mapping[str, tuple[str, ...]], after: Mapping[str, tuple[str, ...]]) -> Iterator[LabelChange]:
    for head in before:
        if head in after and before[head] != after[head]:
            old, new = ({name: place for place, name in enumerate(side[head])} for side in (before, after))
            yield LabelChange(
                head,
                tuple(name for name in new if name not in old),
                tuple(name for name in old if name not in new),
                {name: (old[name], new[name]) for name in old if name in new and old[name] != new[name]},
            )


def _files(before: Manifest | EnsembleManifest, after: Manifest | EnsembleManifest) -> Iterator[Change]:
    for name in sorted({*before.files, *after.files}):
        if name not in _DERIVED and not name.startswith("members/") and not name.endswith(".safetensors"):
            old, new = (to_json(side.files[name]) if name in side.files else ABSENT for side in (before, after))
            if old != new:
                yield Change(name, old, new)


Side = tuple[BundleFolder, Manifest | EnsembleManifest]


def _members(one: Side, other: Side) -> dict[str, BundleDiff]:
    """Compare the members that both ensembles have."""
    if not isinstance(one[1], EnsembleManifest) or not isinstance(other[1], EnsembleManifest):
        return {}
    theirs = {entry.name: entry for entry in other[1].members}
    found = {}
    for entry in one[1].members:
        if entry.name in theirs:
            found[entry.name] = _beside(_Inside(*one, entry), _Inside(*other, theirs[entry.name]))
    return found


def _beside(mine: _Inside, theirs: _Inside) -> BundleDiff:
    """Open two members at once and compare them."""

    def first(one: BundleFolder) -> BundleDiff:
        return theirs.use(lambda other: _compare(one, other))

    return mine.use(first)


@dataclass(frozen=True)
class _Inside:
    """A member of an open ensemble, inside it or elsewhere."""

    outer: BundleFolder
    manifest: Manifest | EnsembleManifest
    entry: MemberEntry

    def use(self, work: Callable[[BundleFolder], BundleDiff]) -> BundleDiff:
        def checked(folder: BundleFolder) -> BundleDiff:
            if isinstance(self.manifest, EnsembleManifest):
                check_member(folder, self.entry, self.manifest)
            return work(folder)

        if self.entry.path is None:
            with self.outer.inner(f"members/{self.entry.name}") as inner:
                return checked(inner)
        try:
            return open_bundle(place_of(self.outer.path, self.entry, {}), checked)
        except BundleError as error:
            raise BundleError(f"The member {self.entry.name!r} of {self.outer.path} cannot be had: {error}") from error
