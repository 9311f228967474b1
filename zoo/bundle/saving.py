"""Saving a bundle: the tensors, written beside the target, proven to rebuild the model, and published at once."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

import zoo
from zoo.bundle.adapters import adapter_configs, adapter_entries
from zoo.bundle.card import make_card
from zoo.bundle.digest import Record, digest_records, records_of
from zoo.bundle.manifest import Base, Component, Created, FileEntry, Manifest, PluginEntry, dump
from zoo.bundle.method_states import state_files
from zoo.bundle.paths import DELTA, MANIFEST, NATIVE, OWN, bundle_path, check_path, check_paths
from zoo.bundle.plain_json import canonical, plain
from zoo.bundle.probe import make_probe
from zoo.bundle.proving import prove
from zoo.bundle.rebuilding import states_of
from zoo.bundle.staging import StagedFolder, check_target, staged
from zoo.bundle.streaming import Stream
from zoo.bundle.tensors import TensorSet, snapshot
from zoo.contracts.head import Head
from zoo.ensembling.ensemble import Ensemble
from zoo.errors import BundleError, ConfigError
from zoo.model import Model
from zoo.registry import Plugin, registry
from zoo.spec import BackboneSpec
from zoo.wrapping import WRAPPED

if TYPE_CHECKING:
    from zoo.bundle.basing import Based, BaseLike

__all__ = ["check_kind", "components_of", "created", "native_files", "required", "save", "write"]


def save(
    model: Model | Ensemble,
    path: str | Path,
    *,
    overwrite: bool = False,
    members: Literal["embed", "refer"] | None = None,
    kind: Literal["full", "delta"] | None = None,
    base: BaseLike | None = None,
    probe: bool = True,
) -> Path:
    """Save a model or an ensemble as a bundle; a crash at any instant leaves the old bundle or the new one.

    Each tensor is read once, so a thread that trains on does no harm. Before anything is published, the model is
    rebuilt from what was written, once for each structure in a process: what could not be loaded again is refused here.

    Args:
        model: The model or ensemble.
        path: The bundle's folder; missing parents are made.
        overwrite: Whether to replace a bundle that is there; anything else is never replaced.
        members: For an ensemble: ``embed`` to put the members' whole bundles inside, the default; ``refer`` to keep
            only where the bundles of members are, and their ids, by which they are checked when it is loaded.
        kind: For a model: ``full`` to keep all tensors in the bundle, the default; ``delta`` to keep the heads, and of
            the backbones what differs from their bases. The bases are put in the user's store (:class:`zoo.Store`),
            once for any number of bundles, and loading takes them from there.
        base: For ``delta``: what the backbones are based on: a model, or a bundle's folder; None for the weights that
            their libraries ship.
        probe: Whether to keep what the model gives for a seeded input, by which ``zoo.verify(…, run=True)`` finds a
            library that has changed its meaning; it costs one pass.

    Returns:
        The folder.

    Raises:
        BundleError: If the target exists, the model cannot be kept as it is, or the system refuses to write. What was
            at the target is untouched then.
        ConfigError: If ``members`` or ``kind`` is another word or is for something else than this, or there is nothing
            that the model could be based on.
    """
    if not isinstance(model, (Model, Ensemble)):
        raise BundleError(f"zoo.save takes a model of zoo.build or zoo.load, got {type(model).__name__}.")
    if members not in (None, "embed", "refer"):
        raise ConfigError(f"members must be 'embed' or 'refer', got {members!r}.")
    check_kind(kind, base)
    target = bundle_path(path)
    check_target(target, overwrite=overwrite)
    if isinstance(model, Ensemble):
        if kind is not None:
            raise ConfigError(f"kind={kind!r} is for single models; save the members so, and refer to them.")
        from zoo.bundle.ensemble_saving import save_ensemble

        save_ensemble(model, target, overwrite=overwrite, refer=members == "refer", probe=probe)
        return target
    if members is not None:
        raise ConfigError(f"members={members!r} is for ensembles, and this is a single model; leave it out.")
    bases = {}
    if kind == "delta":
        from zoo.bundle.basing import bases_for

        bases = bases_for(model, base, target)
    with staged(target, overwrite=overwrite) as folder:
        write(model, folder, bases=bases, probe=probe)
    return target


def check_kind(kind: str | None, base: object) -> None:
    """Refuse a kind that there is not, or a base for one that has none.

    Raises:
        ConfigError: If it is so.
    """
    if kind not in (None, "full", "delta"):
        raise ConfigError(f"kind must be 'full' or 'delta', got {kind!r}.")
    if base is not None and kind != "delta":
        raise ConfigError("base is for bundles that keep only what differs from it; say so: kind='delta'.")


def write(
    model: Model, folder: StagedFolder, place: str = "", *, bases: Mapping[str, Based] | None = None, probe: bool = True
) -> dict[str, FileEntry]:
    """Write a model into a folder, its manifest last.

    While the system brings the files to the disk, the model is rebuilt from them where no model of its structure has
    been, and run on the probe.

    Args:
        model: The model.
        folder: The folder.
        place: Where in it; with ``/`` at the end, empty for the top.
        bases: Stream to what its backbone is based on.
        probe: Whether to run the model on the probe.

    Returns:
        All files by path, the manifest's at the end.

    Raises:
        BundleError: If the model cannot be kept as it is, or not be rebuilt.
    """
    _check_settings(model)
    provenance = plain(model.provenance, "provenance")
    based = bases or {}
    tensors = snapshot(states_of(model), of={f"backbones/{stream}/{NATIVE}" for stream in based})
    texts = _texts(model, provenance)
    held, entries = _differing(tensors, based)
    told, kept = state_files(model.state)
    texts, held = texts | told, held | kept
    check_paths([*texts, *held], "The bundle")
    streams = {name: Stream(each) for name, each in held.items()}
    written = {name: folder.write(place + name, each) for name, each in streams.items()}
    files = {name: folder.write(place + name, data) for name, data in texts.items()} | written
    records = {name: streams[name].records for name in tensors.files if name in streams}

    def read() -> TensorSet:
        """Give the tensors as they were written."""
        own = {name: folder.tensors(place + name) for name in records}
        return replace(tensors, files={**tensors.files, **own})

    rebuilt = prove(model, tensors, texts, read, wanted=probe)
    fields = _fields(model, tensors, records, rebuilt if probe else None, provenance)
    manifest = Manifest(**fields, kind="delta" if entries else "full", bases=entries, files=dict(files))
    files[MANIFEST] = folder.write(place + MANIFEST, dump(manifest))
    return {place + name: entry for name, entry in files.items()}


def _differing(
    tensors: TensorSet, bases: Mapping[str, Based]
) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Base]]:
    """Give the tensors that are to be written, by file, and what the manifest says of the bases of the others."""
    held: dict[str, Mapping[str, Tensor]] = dict(tensors.files)
    entries = {}
    for stream, base in bases.items():
        whole = held.pop(f"backbones/{stream}/{NATIVE}")
        entries[stream] = base.entry(whole)
        if differing := base.differing(whole):
            held[f"backbones/{stream}/{DELTA}"] = differing
    return held, entries


def _fields(
    model: Model,
    tensors: TensorSet,
    records: Mapping[str, Mapping[str, Record]],
    probed: Model | None,
    provenance: Any,
) -> dict[str, Any]:
    """Give the manifest's fields that follow from the model; ``probed`` is what the probe is run on."""
    components = components_of(model, tensors, records)
    return {
        "created": created(),
        "model": model.spec,
        "streams": tuple(model.spec.streams),
        "components": components,
        "adapters": adapter_entries(model, tensors, records),
        "tied": tensors.tied,
        "memory_formats": tensors.memory_formats,
        "frozen": {stream: tuple(sorted(stages)) for stream, stages in model.frozen().items() if stages},
        "provenance": provenance,
        "licenses": {name: s.backbone.license for name, s in model.spec.streams.items() if s.backbone.license},
        "probe": None if probed is None else make_probe(probed),
        "requires": required(model, components),
    }


def _texts(model: Model, provenance: Any) -> dict[str, bytes]:
    """Give the small files by path."""
    texts = native_files(model) | adapter_configs(model)
    texts["config.json"] = canonical({"library_name": "zoo", "zoo_format": 1}) + b"\n"
    texts["README.md"] = make_card(model.spec, provenance, [adapter.spec for adapter in model.adapters]).encode("utf-8")
    return texts


def _check_settings(model: Model) -> None:
    """Refuse settings that are not JSON, with their path."""
    for stream, entry in model.spec.streams.items():
        plain(entry.backbone.construction, f"spec.streams.{stream}.backbone.construction")
    for head in model.spec.heads:
        plain(head.config, f"spec.heads.{head.name}.config")


def native_files(model: Model) -> dict[str, bytes]:
    """Give the libraries' own files by path."""
    texts: dict[str, bytes] = {}
    for stream, backbone in model.backbones.items():
        for name, content in backbone.native_files().items():
            path = f"backbones/{stream}/{name}"
            check_path(path, f"The provider of the stream {stream!r}")
            if name in (NATIVE, OWN, DELTA):
                raise BundleError(f"The provider of the stream {stream!r} must not give {name!r}; zoo.save writes it.")
            texts[path] = content if isinstance(content, bytes) else _readable(content, path)
    return texts


def _readable(content: object, path: str) -> bytes:
    return json.dumps(plain(content, path), indent=2, ensure_ascii=False).encode("utf-8") + b"\n"


def components_of(
    model: Model, tensors: TensorSet, records: Mapping[str, Mapping[str, Record]] | None = None
) -> tuple[Component, ...]:
    """Give the parts of a model, with the digests of their tensors.

    Args:
        model: The model.
        tensors: Its tensors.
        records: File to name to record, where they are known.
    """
    known = records or {}
    held = {file: known[file] if file in known else records_of(each) for file, each in tensors.files.items()}
    parts: list[tuple[Literal["backbone", "head"], str, str, PluginEntry]] = []
    for stream in model.backbones:
        entry = model.spec.streams[stream]
        parts.append(("backbone", stream, entry.backbone.provider, _builder(entry.backbone)))
    for head in model.spec.heads:
        parts.append(("head", head.name, head.type, _entry(registry().owner("heads", head.type))))
    return tuple(
        Component(
            role=role,
            name=name,
            type=kind,
            plugin=plugin,
            path=f"{role}s/{name}",
            state_digest=digest_records(tensors.completed(f"{role}s/{name}/{NATIVE}", held)),
        )
        for role, name, kind, plugin in parts
    )


def required(model: Model, components: tuple[Component, ...]) -> tuple[PluginEntry, ...]:
    """List all plugins that rebuilding needs; a combinator's heads may come from others than itself."""
    needed = {part.plugin.name: part.plugin for part in components if part.type != WRAPPED or part.role == "head"}
    for module in model.heads.modules():
        if isinstance(module, Head):
            plugin = registry().owner("heads", module.spec.type)
            needed[plugin.name] = _entry(plugin)
    return tuple(needed[name] for name in sorted(needed))


def _builder(spec: BackboneSpec) -> PluginEntry:
    """Say who builds a backbone: a plugin, or for a wrapped module nobody but the user's own code."""
    if spec.provider != WRAPPED:
        return _entry(registry().plugin(spec.provider))
    return PluginEntry(name=WRAPPED, distribution=spec.library, version=spec.library_version)


def _entry(plugin: Plugin) -> PluginEntry:
    return PluginEntry(name=plugin.name, distribution=plugin.distribution, version=plugin.version)


def created() -> Created:
    """Say who makes a bundle now."""
    return Created(
        by=f"zoo {zoo.__version__}",
        at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        torch=str(torch.__version__),
        python=platform.python_version(),
    )
