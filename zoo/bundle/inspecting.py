"""Inspecting a bundle: all that it says of itself, from its manifest and the headers of its tensor files alone.

No model is built, and neither torch nor a plugin is imported. Digests are not checked; :func:`zoo.verify` does that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zoo.bundle.ensemble_loading import check_member, place_of
from zoo.bundle.folder import BundleFolder, OpenFile, open_bundle
from zoo.bundle.header import Entry, header_length, read_entries
from zoo.bundle.manifest import EnsembleManifest, Manifest, MemberEntry, PluginEntry, Probe
from zoo.bundle.paths import bundle_path
from zoo.errors import BundleError, ZooError
from zoo.registry import registry
from zoo.spec import HeadSpec, StreamSpec
from zoo.strict import to_json

__all__ = [
    "HeadFacts",
    "Inspection",
    "MemberFacts",
    "PluginFacts",
    "StreamFacts",
    "TensorFacts",
    "classes_of",
    "flat_heads",
    "header_of",
    "inspect",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFacts:
    """One tensor in a file.

    Args:
        file: The file, by its path in the bundle.
        name: Its name there.
        dtype: Its dtype, as torch names it.
        shape: Its shape.
        bytes: Its size.
    """

    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFacts:
    """One stream.

    Args:
        name: Its name.
        input: The input that feeds it.
        reference: The backbone.
        provider: The plugin that builds it.
        library: The library whose code runs.
        library_version: That library's version when the spec was made.
        modality: What it looks at.
        size: Height and width that it was trained at, in pixels; None for text and sound.
        stages: Names of its stages, in the order of execution.
        pooled_dim: Width of the pooled vector.
        parameters: Number of parameters of the whole backbone.
        weights: Where the weights came from.
        license: Licence of the weights.
        shares: The stream whose module it runs; None for one of its own.
        keep: What of it is kept; None for all.
        frozen: Stages that rest.
        preprocessing: The recipe from a picture to its input, as JSON.
    """

    name: str
    input: str
    reference: str
    provider: str
    library: str
    library_version: str
    modality: str
    size: tuple[int, int] | None
    stages: tuple[str, ...]
    pooled_dim: int
    parameters: int
    weights: str | None
    license: str | None
    shares: str | None
    keep: Mapping[str, Any] | None
    frozen: tuple[str, ...]
    preprocessing: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadFacts:
    """One head.

    Args:
        name: Its name.
        type: Its type.
        within: Path of the combinator that holds it; None for a head of the model's own.
        classes: Names of its classes, in the order of the logits; None if it has none.
        settings: Its other settings, those of heads inside it left out.
    """

    name: str
    type: str
    within: str | None
    classes: tuple[str, ...] | None
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginFacts:
    """A plugin that the model needs.

    Args:
        name: Its entry point's name.
        distribution: The package that brings it.
        version: That package's version at save.
        installed: The version that is installed here; None if it is not.
    """

    name: str
    distribution: str
    version: str
    installed: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberFacts:
    """A member of an ensemble.

    Args:
        name: Its name.
        id: Its bundle's id.
        path: Where its bundle is, relative to the ensemble's folder; None if it is inside.
        found: What that bundle says; None if it cannot be read.
        problem: Why it cannot be read.
    """

    name: str
    id: str
    path: str | None
    found: Inspection | None = None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a bundle says of itself.

    Args:
        path: The folder.
        id: BLAKE3 of its ``zoo.json``.
        kind: What the bundle is: ``full``, ``delta`` or ``ensemble``.
        format_version: Version of the format.
        created: Who made it, when, and with what.
        files: Path to size of every file, in bytes.
        streams: Its streams, in order.
        heads: Its heads, in order, those inside combinators behind them.
        tensors: Every tensor of every file.
        tied: Groups of tensors that are one, as ``file:name``.
        memory_formats: Layout to the tensors laid out like that.
        licenses: Stream to licence.
        provenance: How it came to be.
        requires: Plugins without which it cannot be loaded.
        bases: Of a delta bundle, stream to what its tensors differ from: digest, label, path, and what is left out.
        adapters: Its adapters, as the manifest says them: name, stream, rank, alpha, dropout, targets and the like.
        probe: Seed, shapes of the input and of each task's output; None if it has no probe.
        ensemble: How members are combined, for an ensemble.
        members: The members of an ensemble.
    """

    path: str
    id: str
    kind: str
    format_version: str
    created: Mapping[str, str]
    files: Mapping[str, int]
    streams: tuple[StreamFacts, ...] = ()
    heads: tuple[HeadFacts, ...] = ()
    tensors: tuple[TensorFacts, ...] = ()
    tied: tuple[tuple[str, ...], ...] = ()
    memory_formats: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    licenses: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    requires: tuple[PluginFacts, ...] = ()
    bases: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    adapters: tuple[Mapping[str, Any], ...] = ()
    probe: Mapping[str, Any] | None = None
    ensemble: Mapping[str, Any] | None = None
    members: tuple[MemberFacts, ...] = ()

    @property
    def bytes(self) -> int:
        """Size of all files together, the manifest left out."""
        return sum(self.files.values())

    def as_json(self, *, tensors: bool = True) -> dict[str, Any]:
        """Give it as plain JSON values.

        Args:
            tensors: Whether to list every tensor; their number and size are given anyway.
        """
        told: dict[str, Any] = {**asdict(self), "bytes": self.bytes}
        held = {"count": len(self.tensors), "bytes": sum(one.bytes for one in self.tensors)}
        told["tensors"] = {**held, "list": told["tensors"]} if tensors else held
        for member, one in zip(told["members"], self.members, strict=True):
            member["found"] = None if one.found is None else one.found.as_json(tensors=tensors)
        return told


def inspect(path: str | Path) -> Inspection:
    """Say what a bundle holds, without building the model or reading its tensors.

    Args:
        path: The bundle's folder.

    Returns:
        Its kind, streams, heads, classes, tensors, licences, provenance, needed plugins and probe.

    Raises:
        BundleError: If it is no bundle, is from a newer zoo, or its manifest or a tensor file's header is damaged.

    Example:
        >>> import tempfile, zoo
        >>> model = zoo.build("timm:test_resnet", zoo.head("classifier", classes=["cat", "dog"]), weights=None)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     zoo.inspect(model.save(f"{folder}/pets")).heads[0].classes
        ('cat', 'dog')
    """
    return open_bundle(bundle_path(path), _inspect)


def _inspect(folder: BundleFolder) -> Inspection:
    manifest, identity = folder.manifest()
    common: dict[str, Any] = {
        "path": str(folder.path),
        "id": identity,
        "kind": manifest.kind,
        "format_version": manifest.format_version,
        "created": to_json(manifest.created),
        "files": {name: entry.size for name, entry in manifest.files.items()},
        "provenance": dict(manifest.provenance),
        "tensors": tuple(_tensors(folder, manifest)),
    }
    if isinstance(manifest, EnsembleManifest):
        spec = to_json(manifest.ensemble)
        del spec["members"]
        members = tuple(_member(folder, manifest, entry) for entry in manifest.members)
        return Inspection(**common, ensemble=spec, members=members)
    return Inspection(
        **common,
        streams=tuple(_stream(name, manifest.model.streams[name], manifest) for name in manifest.streams),
        heads=tuple(_head(head, within) for head, within in flat_heads(manifest.model.heads)),
        tied=manifest.tied,
        memory_formats={str(layout): names for layout, names in manifest.memory_formats.items()},
        licenses=dict(manifest.licenses),
        requires=tuple(map(_plugin, manifest.requires)),
        bases={stream: to_json(base) for stream, base in manifest.bases.items()},
        adapters=tuple(map(to_json, manifest.adapters)),
        probe=_probe(manifest.probe),
    )


def _tensors(folder: BundleFolder, manifest: Manifest | EnsembleManifest) -> Iterator[TensorFacts]:
    for file, listed in sorted(manifest.files.items()):
        if file.endswith(".safetensors") and not file.startswith("members/"):
            with folder.file(file, listed) as opened:
                entries = header_of(opened)
            for name, entry in sorted(entries.items()):
                size = entry.stop - entry.start
                yield TensorFacts(file=file, name=name, dtype=entry.dtype, shape=entry.shape, bytes=size)


def header_of(opened: OpenFile) -> dict[str, Entry]:
    """Read the header of a tensor file that is open, and nothing else of it.

    Raises:
        BundleError: If it is damaged.
    """
    size = opened.entry.size
    length = header_length(os.pread(opened.fd, 8, 0), size, opened.where)
    return read_entries(os.pread(opened.fd, length, 8), size, opened.where)


def _member(folder: BundleFolder, manifest: EnsembleManifest, entry: MemberEntry) -> MemberFacts:
    """Look into a member's bundle; one that is elsewhere may be gone."""

    def look(inner: BundleFolder) -> Inspection:
        check_member(inner, entry, manifest)
        return _inspect(inner)

    if entry.path is None:
        with folder.inner(f"members/{entry.name}") as inner:
            return MemberFacts(name=entry.name, id=entry.id, path=None, found=look(inner))
    try:
        found = open_bundle(place_of(folder.path, entry, {}), look)
    except BundleError as error:
        return MemberFacts(name=entry.name, id=entry.id, path=entry.path, problem=str(error))
    return MemberFacts(name=entry.name, id=entry.id, path=entry.path, found=found)


def _stream(name: str, stream: StreamSpec, manifest: Manifest) -> StreamFacts:
    backbone = stream.backbone
    return StreamFacts(
        name=name,
        input=stream.input,
        reference=backbone.reference,
        provider=backbone.provider,
        library=backbone.library,
        library_version=backbone.library_version,
        modality=backbone.modality,
        size=backbone.inputs[0].size if backbone.inputs else None,
        stages=tuple(stage.name for stage in backbone.stages),
        pooled_dim=backbone.pooled_dim,
        parameters=backbone.parameters,
        weights=backbone.weights,
        license=backbone.license,
        shares=stream.shares,
        keep=None if stream.keep is None else to_json(stream.keep),
        frozen=tuple(manifest.frozen.get(name, ())),
        preprocessing=None if backbone.preprocessing is None else to_json(backbone.preprocessing),
    )


def flat_heads(heads: Sequence[HeadSpec], within: str | None = None) -> Iterator[tuple[HeadSpec, str | None]]:
    """Walk heads and those inside combinators, each with the path of the one that holds it, such as ``all/pets``.

    A bundle may say anything of what is inside; what is no head is passed over.
    """
    for head in heads:
        yield head, within
        yield from flat_heads(list(_inside(head)), head.name if within is None else f"{within}/{head.name}")


def _inside(head: HeadSpec) -> Iterator[HeadSpec]:
    held = head.config.get("heads")
    single = head.config.get("head")
    for one in [*(held if isinstance(held, (list, tuple)) else ()), *([] if single is None else [single])]:
        try:
            yield HeadSpec.of({"name": head.name, **one} if isinstance(one, Mapping) else one)
        except ZooError:
            continue


def _head(head: HeadSpec, within: str | None) -> HeadFacts:
    settings = {key: value for key, value in head.config.items() if key not in ("classes", "heads", "head")}
    return HeadFacts(name=head.name, type=head.type, within=within, classes=classes_of(head), settings=settings)


def classes_of(head: HeadSpec) -> tuple[str, ...] | None:
    """Give the names of a head's classes; None if it has none."""
    classes = head.config.get("classes")
    return tuple(map(str, classes)) if isinstance(classes, (list, tuple)) else None


def _plugin(entry: PluginEntry) -> PluginFacts:
    found = registry().claims.get(entry.name, ())
    versions = " and ".join(f"{one.distribution} {one.version}" if len(found) > 1 else one.version for one in found)
    return PluginFacts(
        name=entry.name, distribution=entry.distribution, version=entry.version, installed=versions or None
    )


def _probe(probe: Probe | None) -> dict[str, Any] | None:
    if probe is None:
        return None
    outputs = {
        name: {"shape": list(one.shape), "values": len(one.values), "tolerance": one.tolerance}
        for name, one in probe.outputs.items()
    }
    inputs = {name: list(shape) for name, shape in probe.inputs.items()}
    return {"seed": probe.seed, "inputs": inputs, "outputs": outputs}
