"""Checkpoints: bundles that hold a run under way, its model and all that going on with it needs.

A backbone that training may change in part is kept like in a delta bundle: what never changes is in the store, once for
all checkpoints of all runs, and a checkpoint holds the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.bundle.adapters import adapter_configs, adapter_entries
from zoo.bundle.basing import Based
from zoo.bundle.digest import Record, digest_records, records_of
from zoo.bundle.folder import BundleFolder, open_bundle
from zoo.bundle.loading import tensor_files
from zoo.bundle.manifest import MOST_BYTES, CheckpointManifest, Training, dump
from zoo.bundle.paths import DELTA, MANIFEST, NATIVE, STATE_TENSORS, STATE_TREE, check_paths
from zoo.bundle.plain_json import canonical, parse, plain
from zoo.bundle.reading import read_file
from zoo.bundle.rebuilding import states_of
from zoo.bundle.saving import components_of, created, native_files, required
from zoo.bundle.staging import staged
from zoo.bundle.store import Store
from zoo.bundle.streaming import Stream
from zoo.bundle.tensors import TensorSet, snapshot, survey
from zoo.bundle.trees import pack, unpack
from zoo.errors import BundleError
from zoo.model import Model

__all__ = ["Checkpoint", "Resting", "read_checkpoint", "read_training", "write_checkpoint"]


@dataclass(frozen=True, slots=True)
class Resting:
    """What a run never changes of a model's backbones, found before it begins.

    Args:
        names: Stream to the names of its tensors that never change; streams that change in all of them are not there.
        digests: Stream to the state digest of these.
        bases: Stream to all its tensors, as they are in the store.
    """

    names: Mapping[str, frozenset[str]]
    digests: Mapping[str, str]
    bases: Mapping[str, Based]

    @classmethod
    def of(cls, model: Model, trained: set[str], *, keep: bool) -> Resting:
        """Look at a model before its run.

        Args:
            model: The model.
            trained: The keys of its state dict that the run may change.
            keep: Whether to put the streams that rest, wholly or in part, into the user's store.

        Raises:
            BundleError: If the store cannot be written.
        """
        names, digests, bases = {}, {}, {}
        for stream, backbone in model.backbones.items():
            states = backbone.native.state_dict()
            rest = frozenset(name for name in states if f"backbones.{stream}.native.{name}" not in trained)
            if not rest:
                continue
            held = snapshot({NATIVE: states}).of(NATIVE)
            records = records_of(held)
            names[stream] = rest
            digests[stream] = digest_records({name: records[name] for name in rest})
            bases[stream] = Based(_label(model, stream), None, records, digest_records(records))
            if keep:
                Store().put(held, label=bases[stream].label, state_digest=bases[stream].state_digest)
        return cls(names, digests, bases)


def _label(model: Model, stream: str) -> str:
    return f"{model.spec.streams[stream].backbone.reference} before a run"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint in memory.

    Args:
        path: Its folder.
        training: Where in its run it stands.
        tensors: The model's tensors that the run may change: file to name to tensor.
        state: The run's state, as it was given.
    """

    path: Path
    training: Training
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]

    def pour(self, model: Model) -> None:
        """Give a model the tensors; what the run never changes stays as it is.

        Raises:
            BundleError: If they do not fit it.
        """
        for file, own in states_of(model).items():
            held = self.tensors.get(file) or self.tensors.get(file.removesuffix(NATIVE) + DELTA, {})
            for name, tensor in held.items():
                if name not in own or own[name].shape != tensor.shape or own[name].dtype != tensor.dtype:
                    raise BundleError(f"{self.path} does not fit the model: {file} must not have {name!r} like that.")
                own[name].copy_(tensor)


def write_checkpoint(model: Model, path: Path, training: Training, state: Mapping[str, Any], resting: Resting) -> None:
    """Write a checkpoint, all at once or not at all; a bundle that is there is replaced.

    The model is not rebuilt from what is written, as a save does: it is the one that goes on.

    Args:
        model: The model as training has it now.
        path: The checkpoint's folder.
        training: Where in its run it stands.
        state: What :func:`zoo.bundle.trees.pack` takes.
        resting: What the run never changes.

    Raises:
        BundleError: If the state cannot be kept, or the system refuses to write; nothing is changed then.
    """
    whole = {f"backbones/{stream}/{NATIVE}" for stream, names in resting.names.items() if _all(model, stream, names)}
    tensors = survey({file: held for file, held in states_of(model).items() if file not in whole})
    tree, held = pack(state, "run")
    texts = {**native_files(model), **adapter_configs(model), STATE_TREE: canonical(tree)}
    texts["config.json"] = canonical({"library_name": "zoo", "zoo_format": 1}) + b"\n"
    kept = {**_changing(tensors, resting), STATE_TENSORS: held}
    check_paths([*texts, *kept], "The checkpoint")
    for base in resting.bases.values():
        Store().refer(base.state_digest, path)
    with staged(path, overwrite=True) as folder:
        streams = {name: Stream(each) for name, each in kept.items()}
        files = {name: folder.write(name, each) for name, each in streams.items()}
        written = {name: folder.tensors(name) if name in files else each for name, each in tensors.files.items()}
        tensors = replace(tensors, files=written)
        records = _records(tensors, {name: each.records for name, each in streams.items()}, resting)
        components = tuple(
            replace(part, state_digest=resting.bases[part.name].state_digest)
            if f"{part.path}/{NATIVE}" in whole
            else part
            for part in components_of(model, tensors, records)
        )
        files |= {name: folder.write(name, data) for name, data in texts.items()}
        manifest = CheckpointManifest(
            created=created(),
            model=model.spec,
            streams=tuple(model.spec.streams),
            components=components,
            adapters=adapter_entries(model, tensors, records),
            files=files,
            bases={
                stream: base.entry(tensors.files.get(f"backbones/{stream}/{NATIVE}", base.records))
                for stream, base in resting.bases.items()
            },
            tied=tensors.tied,
            memory_formats=tensors.memory_formats,  # type: ignore[arg-type]
            frozen={stream: tuple(sorted(stages)) for stream, stages in model.frozen().items() if stages},
            provenance=plain(model.provenance, "provenance"),
            licenses={name: s.backbone.license for name, s in model.spec.streams.items() if s.backbone.license},
            requires=required(model, components),
            training=training,
        )
        folder.write(MANIFEST, dump(manifest))


def _all(model: Model, stream: str, names: frozenset[str]) -> bool:
    return names == model.backbones[stream].native.state_dict().keys()


def _changing(tensors: TensorSet, resting: Resting) -> dict[str, Mapping[str, Tensor]]:
    """Give the tensors that a run may change, by file."""
    found: dict[str, Mapping[str, Tensor]] = dict(tensors.files)
    for stream, names in resting.names.items():
        held = found.pop(f"backbones/{stream}/{NATIVE}", {})
        if held:
            found[f"backbones/{stream}/{DELTA}"] = {name: each for name, each in held.items() if name not in names}
    return found


def _records(
    tensors: TensorSet, written: Mapping[str, Mapping[str, Record]], resting: Resting
) -> dict[str, Mapping[str, Record]]:
    """Give the records of a model's tensors by file: of what was written, and of the tensors that rest."""
    found = dict(written)
    for stream, names in resting.names.items():
        changed = found.pop(f"backbones/{stream}/{DELTA}", {})
        if held := tensors.files.get(f"backbones/{stream}/{NATIVE}"):
            base = {name: resting.bases[stream].records[name] for name in held if name in names}
            found[f"backbones/{stream}/{NATIVE}"] = {**base, **changed}
    return found


def read_training(path: Path) -> Training:
    """Read where in its run a checkpoint stands; nothing but its manifest is looked at.

    Raises:
        BundleError: If it is no checkpoint, or its manifest is damaged.
    """
    return open_bundle(path, lambda folder: _manifest(folder).training)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, every file of it checked.

    Raises:
        BundleError: If it is none, or anything is missing, cut or edited.
    """
    return open_bundle(path, _read)


def _read(folder: BundleFolder) -> Checkpoint:
    manifest = _manifest(folder)
    holders = tensor_files(manifest)
    tensors: dict[str, dict[str, Tensor]] = {}
    tree: Any = None
    for name, entry in manifest.files.items():
        if name in holders or name == STATE_TENSORS:
            with folder.file(name, entry) as opened:
                tensors[name] = read_file(opened)
        else:
            data = folder.read(name, entry)
            if name == STATE_TREE:
                tree = parse(data, f"{folder.path}/{name}", most=16 * MOST_BYTES, depth=64)
    state = unpack(tree, tensors.pop(STATE_TENSORS), f"{folder.path}/{STATE_TREE}")
    if not isinstance(state, dict):
        raise BundleError(f"{folder.path}/{STATE_TREE} does not follow the format: it must be a dict.")
    return Checkpoint(folder.path, manifest.training, tensors, state)


def _manifest(folder: BundleFolder) -> CheckpointManifest:
    manifest, _ = folder.manifest()
    if not isinstance(manifest, CheckpointManifest):
        raise BundleError(f"{folder.path} is a bundle of the kind {manifest.kind!r}, and a checkpoint is needed here.")
    return manifest
