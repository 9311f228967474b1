"""Verifying a bundle: every file against the manifest, and with ``run`` the model against its probe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.adapters.peft_form import CONFIG, TENSORS
from zoo.bundle.adapters import check_configs
from zoo.bundle.digest import Record, digest_records
from zoo.bundle.ensemble_loading import check_member, place_of
from zoo.bundle.folder import BundleFolder, open_bundle
from zoo.bundle.hashing import digest_of
from zoo.bundle.header import read_header
from zoo.bundle.loading import tensor_files
from zoo.bundle.manifest import Component, EnsembleManifest, Manifest, MemberEntry
from zoo.bundle.method_states import read_states
from zoo.bundle.paths import DELTA, MANIFEST, NATIVE, SIGNATURE, bundle_path
from zoo.errors import BundleError, ZooError

if TYPE_CHECKING:
    from zoo.signing import Trust

__all__ = ["Report", "verify"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What :func:`verify` found.

    Args:
        path: The folder.
        id: BLAKE3 of its ``zoo.json``; None if that cannot be read.
        kind: Kind of the bundle; None if it cannot be read.
        files: Number of files that the manifest lists.
        bytes: Their size together.
        components: Path of each part to its state digest; for an ensemble, those of its members.
        extra: Files in the folder that the manifest does not list; each is a problem.
        probe: Task name (``member/task`` of an ensemble) to the largest difference from what was saved, in the
            output's unit; None if it was not run.
        skew: Library to its version when the bundle was saved, and the one that ran; those that differ.
        signed: Whether the signature is the one that was asked for; None if none was.
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
    skew: dict[str, tuple[str, str]] = field(default_factory=dict)
    signed: bool | None = None
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


def verify(
    path: str | Path,
    *,
    run: bool = False,
    key: str | Path | None = None,
    identity: str | None = None,
    issuer: str | None = None,
) -> Report:
    """Check a bundle, and list all that is wrong with it; nothing is raised for a bundle that is damaged.

    A file in the folder that the manifest does not list is a problem here, though :func:`zoo.load` does not read it.

    Args:
        path: The bundle's folder; for ``zoo.verify`` also its URL, of which every byte is read anew, and files that the
            manifest does not list are not looked for.
        run: Whether to rebuild the model too, and to compare what it gives for the probe with what it gave at save.
        key: PEM file of a public key; the bundle must have a signature of it, over every file. Needs the extra
            ``signing``, and no network.
        identity: In place of ``key``: e-mail address or URL of who must have signed it without a key.
        issuer: Who vouches for the identity, a URL.

    Raises:
        BundleError: If ``path`` is no path.
        ConfigError: If the key cannot be used, or comes with an identity, or an identity without its issuer.
        PluginError: If a signature is asked for and the extra is not installed.
    """
    folder = bundle_path(path)
    trust = _trust(key, identity, issuer)
    try:
        report = open_bundle(folder, _check_files)
    except ZooError as error:
        return Report(path=str(path), problems=[str(error)], signed=None if trust is None else False)
    probe, problems, signed = None, list(report.problems), None
    if trust is not None:
        from zoo.bundle.signing import fault_of_signature

        fault = fault_of_signature(folder, report.id, trust) if report.ok and report.id else None
        problems += [fault] if fault else []
        signed = not problems
    skew: dict[str, tuple[str, str]] = {}
    if run and not problems:
        from zoo.bundle.probing import run_probe

        probe, skew, found = run_probe(folder)
        problems += found
    done = {"path": str(path), "probe": probe, "skew": skew, "problems": problems, "signed": signed}
    return Report(**{**_fields(report), **done})


def _trust(key: str | Path | None, identity: str | None, issuer: str | None) -> Trust | None:
    if key is None and identity is None and issuer is None:
        return None
    from zoo.signing import Trust

    return Trust.of(key, identity, issuer)


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
        problems += _check_adapters(folder, manifest, records)
        try:
            read_states(folder, manifest.files)
            based = {f"backbones/{name}": _base_records(name, manifest, folder.path) for name in manifest.bases}
            problems += [
                fault for part in manifest.components if (fault := _check_state(part, manifest, records, based))
            ]
        except BundleError as error:
            problems.append(str(error))
    extra = _extra(folder, manifest)
    problems += _strange(folder, extra)
    return Report(
        path=str(folder.path),
        id=identity,
        kind=manifest.kind,
        files=len(manifest.files),
        bytes=sum(entry.size for entry in manifest.files.values()),
        components={part.path: part.state_digest for part in manifest.components}
        | {adapter.path: adapter.state_digest for adapter in manifest.adapters},
        extra=extra,
        problems=problems,
    )


def _check_adapters(folder: BundleFolder, manifest: Manifest, records: Mapping[str, Mapping[str, Record]]) -> list[str]:
    """List what is wrong with the adapters' configs and tensors."""
    problems: list[str] = []
    for adapter in manifest.adapters:
        if digest_records(records[f"{adapter.path}/{TENSORS}"]) != adapter.state_digest:
            problems.append(_unlike(adapter.path))
        try:
            texts = {name: folder.read(name, manifest.files[name]) for name in (f"{adapter.path}/{CONFIG}",)}
            check_configs([adapter], texts, str(folder.path))
        except BundleError as error:
            problems.append(str(error))
    return problems


def _unlike(path: str) -> str:
    return f"The tensors of {path} are not those that were saved: their state digest differs. Save the model again."


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
    return sorted(set(folder.listing()) - {MANIFEST, SIGNATURE, *manifest.files})


def _strange(folder: BundleFolder, extra: Sequence[str]) -> list[str]:
    return [f"{folder.path} holds {name[:200]!r}, which is not part of the bundle; remove it." for name in extra]


def _records(data: bytes, where: str) -> dict[str, Record]:
    view = memoryview(data)
    return {
        name: Record(entry.dtype, entry.shape, digest_of(view[entry.start : entry.stop]))
        for name, entry in read_header(data, where).items()
    }


def _base_records(stream: str, manifest: Manifest, folder: Path) -> dict[str, Record]:
    """Give the records of the tensors that a backbone is based on."""
    from zoo.bundle.basing import base_tensors
    from zoo.bundle.digest import records_of

    return records_of(base_tensors(manifest.bases[stream], stream, folder, None))


def _check_state(
    part: Component,
    manifest: Manifest,
    records: Mapping[str, Mapping[str, Record]],
    based: Mapping[str, Mapping[str, Record]],
) -> str | None:
    file = f"{part.path}/{NATIVE}"
    found = {**based.get(part.path, {}), **records.get(f"{part.path}/{DELTA}", {}), **records.get(file, {})}
    for first, *others in manifest.tied:
        source, _, key = first.partition(":")
        for place, _, name in (other.partition(":") for other in others):
            if place == file and key in records.get(source, {}):
                found[name] = records[source][key]
    if digest_records(found) == part.state_digest:
        return None
    return _unlike(part.path)
