"""Saving a bundle: a copy of the tensors, proven to rebuild the model, written beside the target, published at once."""

from __future__ import annotations

import copy
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

import zoo
from zoo.bundle.card import make_card
from zoo.bundle.digest import state_digest
from zoo.bundle.manifest import Component, Created, FileEntry, Manifest, PluginEntry, dump
from zoo.bundle.paths import MANIFEST, NATIVE, OWN, bundle_path, check_path, check_paths
from zoo.bundle.plain_json import canonical, plain
from zoo.bundle.probe import make_probe
from zoo.bundle.rebuilding import rebuild, states_of
from zoo.bundle.staging import StagedFolder, check_target, staged
from zoo.bundle.tensors import TensorSet, encode, snapshot
from zoo.contracts.head import Head
from zoo.ensembling.ensemble import Ensemble
from zoo.errors import BundleError, ConfigError
from zoo.model import Model
from zoo.registry import Plugin, registry
from zoo.spec import BackboneSpec
from zoo.wrapping import WRAPPED

__all__ = ["Draft", "components_of", "created", "describe", "put", "save", "write"]


def save(
    model: Model | Ensemble,
    path: str | Path,
    *,
    overwrite: bool = False,
    members: Literal["embed", "refer"] | None = None,
) -> Path:
    """Save a model or an ensemble as a bundle; a crash at any instant leaves the old bundle or the new one.

    The tensors are copied first, so a thread that trains on does no harm. Before anything is published, the model is
    rebuilt once from the copy: what could not be loaded again is refused here.

    Args:
        model: The model or ensemble.
        path: The bundle's folder; missing parents are made.
        overwrite: Whether to replace a bundle that is there; anything else is never replaced.
        members: For an ensemble: ``embed`` to put the members' whole bundles inside, the default; ``refer`` to keep
            only where the bundles of members are, and their ids, by which they are checked when it is loaded.

    Returns:
        The folder.

    Raises:
        BundleError: If the target exists, the model cannot be kept as it is, or the system refuses to write. What was
            at the target is untouched then.
        ConfigError: If ``members`` is another word, or comes with a single model.
    """
    if not isinstance(model, (Model, Ensemble)):
        raise BundleError(f"zoo.save takes a model of zoo.build or zoo.load, got {type(model).__name__}.")
    if members not in (None, "embed", "refer"):
        raise ConfigError(f"members must be 'embed' or 'refer', got {members!r}.")
    target = bundle_path(path)
    check_target(target, overwrite=overwrite)
    if isinstance(model, Ensemble):
        from zoo.bundle.ensemble_saving import save_ensemble

        save_ensemble(model, target, overwrite=overwrite, refer=members == "refer")
        return target
    if members is not None:
        raise ConfigError(f"members={members!r} is for ensembles, and this is a single model; leave it out.")
    put(describe(model), target, overwrite=overwrite)
    return target


@dataclass(frozen=True, slots=True)
class Draft:
    """All that is to be written.

    Args:
        texts: Path to content of the small files.
        tensors: The tensors, by file.
        fields: The manifest's fields, all but ``files``.
    """

    texts: Mapping[str, bytes]
    tensors: TensorSet
    fields: Mapping[str, Any]


def put(draft: Draft, target: Path, *, overwrite: bool) -> None:
    """Make a model the bundle at a path, all at once or not at all."""
    with staged(target, overwrite=overwrite) as folder:
        write(draft, folder)


def write(draft: Draft, folder: StagedFolder, place: str = "") -> dict[str, FileEntry]:
    """Write a model into a folder, its manifest last.

    Args:
        draft: The model.
        folder: The folder.
        place: Where in it; with ``/`` at the end, empty for the top.

    Returns:
        All files by path, the manifest's at the end.
    """
    files = {name: folder.write(place + name, data) for name, data in draft.texts.items()}
    files |= {name: folder.write(place + name, encode(held)) for name, held in draft.tensors.files.items()}
    files[MANIFEST] = folder.write(place + MANIFEST, dump(Manifest(**draft.fields, files=dict(files))))
    return {place + name: entry for name, entry in files.items()}


def describe(model: Model) -> Draft:
    """Copy and check all that is to be written; nothing is written yet."""
    _check_settings(model)
    provenance = plain(model.provenance, "provenance")
    tensors = snapshot(states_of(model))
    texts = _native_files(model)
    own = {name: copy.deepcopy(b.native) for name, b in model.backbones.items() if b.spec.provider == WRAPPED}
    rebuilt = rebuild(model.spec, tensors, texts=texts, where="memory", modules=own)
    components = components_of(model, tensors)
    fields: dict[str, Any] = {
        "created": created(),
        "model": model.spec,
        "streams": tuple(model.spec.streams),
        "components": components,
        "tied": tensors.tied,
        "memory_formats": tensors.memory_formats,
        "frozen": {stream: tuple(sorted(stages)) for stream, stages in model.frozen().items() if stages},
        "provenance": provenance,
        "licenses": {name: s.backbone.license for name, s in model.spec.streams.items() if s.backbone.license},
        "probe": make_probe(rebuilt),
        "requires": _requires(model, components),
    }
    texts["config.json"] = canonical({"library_name": "zoo", "zoo_format": 1}) + b"\n"
    texts["README.md"] = make_card(model.spec, provenance).encode("utf-8")
    check_paths([*texts, *tensors.files], "The bundle")
    return Draft(texts, tensors, fields)


def _check_settings(model: Model) -> None:
    """Refuse settings that are not JSON, with their path."""
    for stream, entry in model.spec.streams.items():
        plain(entry.backbone.construction, f"spec.streams.{stream}.backbone.construction")
    for head in model.spec.heads:
        plain(head.config, f"spec.heads.{head.name}.config")


def _native_files(model: Model) -> dict[str, bytes]:
    texts: dict[str, bytes] = {}
    for stream, backbone in model.backbones.items():
        for name, content in backbone.native_files().items():
            path = f"backbones/{stream}/{name}"
            check_path(path, f"The provider of the stream {stream!r}")
            if name in (NATIVE, OWN):
                raise BundleError(f"The provider of the stream {stream!r} must not give {name!r}; zoo.save writes it.")
            texts[path] = content if isinstance(content, bytes) else _readable(content, path)
    return texts


def _readable(content: object, path: str) -> bytes:
    return json.dumps(plain(content, path), indent=2, ensure_ascii=False).encode("utf-8") + b"\n"


def components_of(model: Model, tensors: TensorSet) -> tuple[Component, ...]:
    """Give the parts of a model, with the digests of their tensors."""
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
            state_digest=state_digest(tensors.of(f"{role}s/{name}/{NATIVE}")),
        )
        for role, name, kind, plugin in parts
    )


def _requires(model: Model, components: tuple[Component, ...]) -> tuple[PluginEntry, ...]:
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
