"""Verifying a bundle: every file against the manifest, and with ``run`` the model against its probe."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.bundle.digest import Record, digest_records
from zoo.bundle.ensemble_loading import EnsembleContents, check_member, place_of, restore_ensemble
from zoo.bundle.folder import BundleFolder, open_bundle
from zoo.bundle.header import read_header
from zoo.bundle.loading import Contents, read_any, restore, tensor_files
from zoo.bundle.manifest import Component, EnsembleManifest, Manifest, MemberEntry
from zoo.bundle.paths import MANIFEST, NATIVE, bundle_path
from zoo.errors import BundleError, ZooError

if TYPE_CHECKING:
    from zoo.model import Model

__all__ = ["Report", "verify"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What :func:`verify` found.

    Args:
        path: The folder.
        id: sha256 of its ``zoo.json``; None if that cannot be read.
        kind: Kind of the bundle; None if it cannot be read.
        files: Number of files that the manifest lists.
        bytes: Their size together.
        components: Path of each part to its state digest; for an ensemble, those of its members.
        extra: Files in the folder that the manifest does not list; each is a problem.
        probe: Task name (``member/task`` of an ensemble) to the largest difference from what was saved, in the
            output's unit; None if it was not run.
        problems: One sentence a problem.
    """

    path: str
    id: str | None = None
    kind: str | None = None
    files: int = 0
    bytes: int = 0
    components: dict[str, str] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)
    probe: dict[str, float] | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values; a difference that is not finite is None."""
        probe = None
        if self.probe is not None:
            probe = {name: value if math.isfinite(value) else None for name, value in self.probe.items()}
        return {**asdict(self), "probe": probe, "ok": self.ok}


def verify(path: str | Path, *, run: bool = False) -> Report:
    """Check a bundle, and list all that is wrong with it; nothing is raised for a bundle that is damaged.

    A file in the folder that the manifest does not list is a problem here, though :func:`zoo.load` does not read it.

    Args:
        path: The bundle's folder.
        run: Whether to rebuild the model too, and to compare what it gives for the probe with what it gave at save.

    Raises:
        BundleError: If ``path`` is no path.
    """
    folder = bundle_path(path)
    try:
        report = open_bundle(folder, _check_files)
    except ZooError as error:
        return Report(path=str(path), problems=[str(error)])
    probe, problems = None, list(report.problems)
    if run and report.ok:
        try:
            probe, found = _run_probe(folder)
            problems += found
        except ZooError as error:
            problems.append(str(error))
    return Report(**{**_fields(report), "path": str(path), "probe": probe, "problems": problems})


def _fields(report: Report) -> dict[str, Any]:
    return {name: getattr(report, name) for name in report.__dataclass_fields__}


def _check_files(folder: BundleFolder) -> Report:
    manifest, identity = folder.manifest()
    if isinstance(manifest, EnsembleManifest):
        return _check_ensemble(folder, manifest, identity)
    problems: list[str] = []
    records: dict[str, dict[str, Record]] = {}
    holders = tensor_files(manifest)
    for name, entry in manifest.files.items():
        try:
            data = folder.read(name, entry)
            if name in holders:
                records[name] = _records(data, f"{folder.path}/{name}")
        except BundleError as error:
            if folder.was_replaced():
                raise
            problems.append(str(error))
    if not problems:
        problems += [fault for part in manifest.components if (fault := _check_state(part, manifest, records))]
    extra = _extra(folder, manifest)
    problems += _strange(folder, extra)
    return Report(
        path=str(folder.path),
        id=identity,
        kind=manifest.kind,
        files=len(manifest.files),
        bytes=sum(entry.size for entry in manifest.files.values()),
        components={part.path: part.state_digest for part in manifest.components},
        extra=extra,
        problems=problems,
    )


def _check_ensemble(folder: BundleFolder, manifest: EnsembleManifest, identity: str) -> Report:
    """Check what is the ensemble's own, and each member's bundle, inside or where it is said to be."""
    problems: list[str] = []
    components: dict[str, str] = {}
    for name, entry in manifest.files.items():
        if not name.startswith("members/"):
            try:
                folder.read(name, entry)
            except BundleError as error:
                problems.append(str(error))
    for member in manifest.members:

        def check(inner: BundleFolder, member: MemberEntry = member) -> Report:
            check_member(inner, member, manifest)
            return _check_files(inner)

        try:
            if member.path is None:
                with folder.inner(f"members/{member.name}") as inner:
                    found = check(inner)
            else:
                found = open_bundle(place_of(folder.path, member, {}), check)
        except ZooError as error:
            if folder.was_replaced():
                raise
            problems.append(f"The member {member.name!r}: {error}")
            continue
        components |= {f"members/{member.name}/{path}": digest for path, digest in found.components.items()}
        beside = _strange(inner, found.extra) if member.path is None else []  # told below, as the ensemble's
        problems += [problem for problem in found.problems if problem not in beside]
    extra = _extra(folder, manifest)
    return Report(
        path=str(folder.path),
        id=identity,
        kind=manifest.kind,
        files=len(manifest.files),
        bytes=sum(entry.size for entry in manifest.files.values()),
        components=components,
        extra=extra,
        problems=problems + _strange(folder, extra),
    )


def _extra(folder: BundleFolder, manifest: Manifest | EnsembleManifest) -> list[str]:
    return sorted(set(folder.listing()) - {MANIFEST, *manifest.files})


def _strange(folder: BundleFolder, extra: Sequence[str]) -> list[str]:
    return [f"{folder.path} holds {name[:200]!r}, which is not part of the bundle; remove it." for name in extra]


def _records(data: bytes, where: str) -> dict[str, Record]:
    view = memoryview(data)
    return {
        name: Record(entry.dtype, entry.shape, hashlib.sha256(view[entry.start : entry.stop]).hexdigest())
        for name, entry in read_header(data, where).items()
    }


def _check_state(part: Component, manifest: Manifest, records: Mapping[str, Mapping[str, Record]]) -> str | None:
    file = f"{part.path}/{NATIVE}"
    found = dict(records[file])
    for first, *others in manifest.tied:
        source, _, key = first.partition(":")
        for place, _, name in (other.partition(":") for other in others):
            if place == file and key in records.get(source, {}):
                found[name] = records[source][key]
    if digest_records(found) == part.state_digest:
        return None
    return (
        f"The tensors of {part.path} are not those that were saved: their state digest differs. Save the model again."
    )


def _run_probe(folder: Path) -> tuple[dict[str, float] | None, list[str]]:
    """Compare what a model, or each member of an ensemble, gives now with what it gave when it was saved."""
    from zoo.bundle.probe import compare

    contents = open_bundle(folder, lambda opened: read_any(opened, {}))
    models: dict[str, tuple[Contents, Model]] = {}
    if isinstance(contents, EnsembleContents):
        ensemble = restore_ensemble(contents, where=str(folder))
        models = {f"{name}/": (contents.members[name], model) for name, model in ensemble.members.items()}
    else:
        models[""] = contents, restore(contents, where=str(folder))
    differences: dict[str, float] = {}
    problems: list[str] = []
    probed = False
    for member, (held, model) in models.items():
        probe = held.manifest.probe
        if probe is None:
            continue
        probed = True
        for name, difference in compare(model, probe).items():
            differences[member + name] = difference
            allowed = probe.outputs[name].tolerance
            if not difference <= allowed:
                problems.append(
                    f"The task {member + name!r} gives another output than when it was saved: the difference is "
                    f"{difference:.3g}, {allowed:.3g} is allowed. A library may have changed; see 'created' in "
                    f"{MANIFEST}."
                )
    return (differences if probed else None), problems
