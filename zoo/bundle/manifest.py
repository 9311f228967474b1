"""The manifest, ``zoo.json``: what a bundle is, every file of it, and all that rebuilding the model needs.

Pydantic reads it strictly; inside it is plain frozen dataclasses. It has one spelling (sorted keys, no spaces) and
carries its own checksum, so that no single changed bit goes unseen. BLAKE3 of the file is the bundle's id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from zoo.adapters.peft_form import TENSORS
from zoo.bundle.adapters import check_adapters
from zoo.bundle.entries import AdapterEntry, Base, Component, Created, FileEntry, PluginEntry, Probe, ProbeOutput
from zoo.bundle.hashing import digest_of
from zoo.bundle.method_states import check_state_files
from zoo.bundle.paths import DELTA, MANIFEST, NATIVE, OWN, STATES, check_paths, is_hint
from zoo.bundle.plain_json import canonical, parse, plain
from zoo.ensembling.spec import EnsembleSpec
from zoo.errors import BundleError, ConfigError
from zoo.spec import BackboneSpec, ModelSpec
from zoo.strict import from_json, to_json

__all__ = [
    "AdapterEntry",
    "AnyManifest",
    "Base",
    "CheckpointManifest",
    "Component",
    "Created",
    "EnsembleManifest",
    "FileEntry",
    "Manifest",
    "MemberEntry",
    "PluginEntry",
    "Probe",
    "ProbeOutput",
    "STATE",
    "Training",
    "dump",
    "read",
    "version_of",
]

FORMAT_VERSION = "1.0"
PRUNED = "1.1"
"""The format of what holds a pruned backbone, whose spec has ``widths``."""
QUANTIZED = "1.2"
"""The format of what holds a backbone that rounds, whose spec has ``quantized``."""
MOST_BYTES = 4 * 2**20
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}")
STATE = re.compile(r"zsd1:blake3:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All that is known of a bundle; the fields are the keys of ``zoo.json``, which also has ``checksum``.

    ``streams`` is the order of the model's streams, which keys have not. ``bases`` has streams, those of a delta bundle
    whose tensors are elsewhere.
    """

    format: Literal["zoo.bundle"] = "zoo.bundle"
    format_version: str = FORMAT_VERSION
    min_reader: str = FORMAT_VERSION
    kind: Literal["full", "delta", "checkpoint"] = "full"
    created: Created
    model: ModelSpec
    streams: tuple[str, ...]
    components: tuple[Component, ...]
    files: Mapping[str, FileEntry]
    bases: Mapping[str, Base] = field(default_factory=dict)
    adapters: tuple[AdapterEntry, ...] = ()
    tied: tuple[tuple[str, ...], ...] = ()
    memory_formats: Mapping[Literal["channels_last", "channels_last_3d"], tuple[str, ...]] = field(default_factory=dict)
    frozen: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    licenses: Mapping[str, str] = field(default_factory=dict)
    probe: Probe | None = None
    requires: tuple[PluginEntry, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Where in its run a checkpoint stands.

    Args:
        step: Optimizer steps that were made.
        steps: Optimizer steps of the whole run.
        epoch: Epochs that are done, the one under way as a fraction of its steps.
        epochs: Epochs of the whole run.
        finished: Whether nothing is left to train.
        run: What identifies the run: method, settings, rows and their split, and the like; any JSON.
    """

    step: int
    steps: int
    epoch: float
    epochs: int
    finished: bool
    run: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointManifest(Manifest):
    """All that is known of a checkpoint: a model as in the other kinds, whole or on bases, and the run's state."""

    kind: Literal["checkpoint"] = "checkpoint"
    training: Training


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberEntry:
    """The bundle of one member of an ensemble.

    Args:
        name: The member's name.
        id: BLAKE3 of its ``zoo.json``.
        path: Where it was when the ensemble was saved, relative to the ensemble's folder, with ``/``; None if it is
            inside, in ``members/<name>``.
    """

    name: str
    id: str
    path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleManifest:
    """All that is known of an ensemble's bundle; ``files`` has those of the members that are inside."""

    format: Literal["zoo.bundle"] = "zoo.bundle"
    format_version: str = FORMAT_VERSION
    min_reader: str = FORMAT_VERSION
    kind: Literal["ensemble"] = "ensemble"
    created: Created
    ensemble: EnsembleSpec
    members: tuple[MemberEntry, ...]
    files: Mapping[str, FileEntry]
    provenance: Mapping[str, Any] = field(default_factory=dict)


AnyManifest = Manifest | EnsembleManifest

_KINDS: dict[str, type[Manifest] | type[EnsembleManifest]] = {
    **{"full": Manifest, "delta": Manifest},
    "checkpoint": CheckpointManifest,
    "ensemble": EnsembleManifest,
}


def dump(manifest: AnyManifest) -> bytes:
    """Write a manifest, and read it back to be sure that it can be.

    Raises:
        BundleError: If it would be too large or break a rule of the format.
    """
    version = version_of(manifest)
    data = plain(to_json(replace(manifest, format_version=version, min_reader=version)), MANIFEST)
    written = canonical({**data, "checksum": _checksum(data)})
    read(written, MANIFEST)
    return written


def version_of(manifest: AnyManifest) -> str:
    """Give the version of the format in which a manifest is written: the least that has all that it says."""
    models = [manifest.model] if isinstance(manifest, Manifest) else [one.model for one in manifest.ensemble.members]
    backbones = [stream.backbone for model in models for stream in model.streams.values()]
    if any(one.quantized for one in backbones):
        return QUANTIZED
    return PRUNED if any(one.widths for one in backbones) else FORMAT_VERSION


def read(written: bytes, where: str) -> AnyManifest:
    """Read a manifest strictly.

    Args:
        written: The bytes of ``zoo.json``.
        where: Its path, for the message.

    Raises:
        BundleError: If it is damaged, edited, or from a newer zoo.
    """
    data = parse(written, where, most=MOST_BYTES)
    check_readable(data, where)
    checksum = data.pop("checksum", None)
    if checksum != _checksum(data) or canonical({**data, "checksum": checksum}) != written:
        raise BundleError(f"{where} was edited or is damaged: its own checksum differs. Save the model again.")
    try:
        manifest: AnyManifest = from_json(_KINDS[data["kind"]], data)
    except ConfigError as error:
        raise BundleError(f"{where} does not follow the format: {error}") from error
    check_paths(manifest.files, where)
    if isinstance(manifest, Manifest):
        check_state_files(manifest.files, where, kind=manifest.kind)
        _check(manifest, where)
    else:
        _check_members(manifest, where)
    return manifest


def _checksum(data: Mapping[str, Any]) -> str:
    return "blake3:" + digest_of(canonical(data))


def check_readable(data: Any, where: str) -> None:
    """Refuse what is no bundle, and what only a newer zoo can read.

    Raises:
        BundleError: If it is either.
    """
    if not isinstance(data, dict) or data.get("format") != "zoo.bundle":
        raise BundleError(f"{where} is no bundle's manifest: 'format' must be 'zoo.bundle'.")
    versions = [_VERSION.fullmatch(str(data.get(key))) for key in ("format_version", "min_reader")]
    if versions[0] is None or versions[1] is None:
        raise BundleError(f"{where} is damaged: it has no format version. Save the model again.")
    whole, least = ((int(version[1]), int(version[2])) for version in versions if version)
    if whole[0] > 1 or least > (1, 2):
        created = data.get("created")
        maker = str(created.get("by") if isinstance(created, dict) else "a newer zoo")[:40]
        needs = maker.replace("zoo ", "zoo >= ", 1)
        raise BundleError(
            f"{where} needs {needs}: it has the format {whole[0]}.{whole[1]}, this zoo reads 1.x. "
            "Update with: pip install -U headzoo."
        )
    if data.get("kind") not in list(_KINDS):
        kinds = ", ".join(map(repr, _KINDS))
        raise BundleError(f"{where} has the kind {str(data.get('kind'))[:40]!r}; this zoo reads {kinds}. Update zoo.")


def _check(manifest: Manifest, where: str) -> None:
    whole = all(_DIGEST.fullmatch(entry.blake3) and entry.size >= 0 for entry in manifest.files.values())
    if not whole or not all(STATE.fullmatch(part.state_digest) for part in manifest.components):
        raise BundleError(f"{where} does not follow the format: a digest or size is malformed.")
    streams = manifest.model.streams
    if sorted(manifest.streams) != sorted(streams):
        raise BundleError(f"{where} does not follow the format: the order of its streams names others than its model.")
    owners = {name: stream.backbone for name, stream in streams.items() if stream.shares is None}
    expected = [("backbone", name, backbone.provider) for name, backbone in owners.items()]
    expected += [("head", head.name, head.type) for head in manifest.model.heads]
    given = [(part.role, part.name, part.type) for part in manifest.components]
    if sorted(given) != sorted(expected):
        raise BundleError(f"{where} does not follow the format: its components are not those of its model.")
    for part in manifest.components:
        if part.path != f"{part.role}s/{part.name}":
            raise BundleError(f"{where} does not follow the format: {part.name!r} cannot be in {part.path[:80]!r}.")
        based = part.role == "backbone" and part.name in manifest.bases
        if (f"{part.path}/{NATIVE}" in manifest.files) is based:
            raise BundleError(f"{where} does not follow the format: {part.path}/{NATIVE} must{_NOT[based]} be there.")
        if f"{part.path}/{DELTA}" in manifest.files and not based:
            raise BundleError(f"{where} does not follow the format: {part.path} has a {DELTA}, and no base.")
    _check_bases(manifest, owners, where)
    check_adapters(manifest.adapters, owners, manifest.files, where)
    _check_tensors(manifest, where)
    stages = {name: {stage.name for stage in backbone.stages} for name, backbone in owners.items()}
    frozen = all(set(names) <= stages.get(stream, set()) for stream, names in manifest.frozen.items())
    if not frozen or any(len(group) < 2 for group in manifest.tied):
        raise BundleError(f"{where} does not follow the format: its frozen stages or tied tensors are impossible.")
    if isinstance(manifest, CheckpointManifest) and not (
        0 <= manifest.training.step <= manifest.training.steps and STATES.issubset(manifest.files)
    ):
        raise BundleError(f"{where} does not follow the format: a step is impossible, or the run's state is missing.")


_NOT = {True: " not", False: ""}


def _check_tensors(manifest: Manifest, where: str) -> None:
    """Refuse a tensor's name whose file is none that could hold the model's tensors."""
    holders = {f"{part.path}/{file}" for part in manifest.components for file in (NATIVE, OWN)}
    holders |= {f"{adapter.path}/{TENSORS}" for adapter in manifest.adapters}
    for name in (name for names in (*manifest.tied, *manifest.memory_formats.values()) for name in names):
        file, _, key = name.partition(":")
        if file not in holders or not key:
            raise BundleError(f"{where} does not follow the format: no tensor can be called {name[:80]!r}.")


def _check_bases(manifest: Manifest, owners: Mapping[str, BackboneSpec], where: str) -> None:
    known = all(STATE.fullmatch(base.state_digest) for base in manifest.bases.values())
    based = bool(manifest.bases) is (manifest.kind == "delta") or manifest.kind == "checkpoint"
    if not known or not based or not set(manifest.bases) <= set(owners):
        raise BundleError(f"{where} does not follow the format: its bases are not those of its kind and streams.")
    for base in manifest.bases.values():
        if base.path is not None and not is_hint(base.path):
            raise BundleError(f"{where} does not follow the format: a base cannot be at {base.path[:80]!r}.")


def _check_members(manifest: EnsembleManifest, where: str) -> None:
    entries = [*manifest.files.values()]
    if not all(_DIGEST.fullmatch(entry.blake3) and entry.size >= 0 for entry in entries):
        raise BundleError(f"{where} does not follow the format: a digest or size is malformed.")
    if [member.name for member in manifest.members] != [member.name for member in manifest.ensemble.members]:
        raise BundleError(f"{where} does not follow the format: its members are not those of its ensemble.")
    for member in manifest.members:
        inside = manifest.files.get(f"members/{member.name}/{MANIFEST}")
        hint = member.path
        usable = hint is None or is_hint(hint)
        known = inside is not None and inside.blake3 == member.id if hint is None else inside is None
        if not (_DIGEST.fullmatch(member.id) and usable and known):
            raise BundleError(f"{where} does not follow the format: it says the member {member.name!r} wrongly.")


_PARTS: tuple[Any, ...] = (
    *(Created, PluginEntry, Component, Base, AdapterEntry, FileEntry, ProbeOutput, Probe, Manifest),
    *(MemberEntry, EnsembleManifest, Training, CheckpointManifest),
)
for _part in _PARTS:
    _part.__pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}
