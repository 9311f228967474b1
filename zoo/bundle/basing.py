"""What a delta bundle is based on: found when it is saved, and found again, by its digest, when it is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from zoo.assembly import build
from zoo.bundle.digest import Record, digest_records, records_of
from zoo.bundle.folder import BundleFolder, open_bundle
from zoo.bundle.loading import Contents, read_contents
from zoo.bundle.manifest import Base, Manifest
from zoo.bundle.paths import NATIVE, bundle_path
from zoo.bundle.store import Store
from zoo.bundle.tensors import snapshot
from zoo.errors import BundleError, ConfigError, ZooError
from zoo.model import Model
from zoo.registry import registry

__all__ = ["BaseLike", "Based", "add", "base_tensors", "bases_for"]

BaseLike = Model | str | Path
"""What a model may be based on: another model, or a bundle's folder."""


@dataclass(frozen=True, slots=True)
class Based:
    """The base of one backbone, when it is saved.

    Args:
        label: What it is for a reader.
        path: The bundle that it is in, relative to the one that is saved; None if it is in none.
        records: Its tensors' records by name.
        state_digest: What they are together.
    """

    label: str
    path: str | None
    records: Mapping[str, Record]
    state_digest: str

    def differing(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the tensors that are not the base's, in bytes, shape or dtype."""
        own = records_of(tensors)
        return {name: tensor for name, tensor in tensors.items() if own[name] != self.records.get(name)}

    def entry(self, names: Mapping[str, object]) -> Base:
        """Give what the manifest says of it.

        Args:
            names: The names that the model's own file would have.
        """
        left_out = tuple(sorted(self.records.keys() - names.keys()))
        return Base(state_digest=self.state_digest, label=self.label, path=self.path, left_out=left_out)


def bases_for(model: Model, base: BaseLike | None, target: Path) -> dict[str, Based]:
    """Find what each backbone of a model is based on, and put it in the store, where the bundle will look for it.

    Args:
        model: The model that is saved.
        base: A model or a bundle with backbones of the same streams; None for the weights that the library ships.
        target: The folder of the bundle.

    Raises:
        ConfigError: If there is nothing that the model could be based on.
        BundleError: If the base cannot be read, or the store cannot be written.
    """
    sources, path = _sources(model, base)
    relative = None if path is None else Path(os.path.relpath(path, target)).as_posix()
    store, found = Store(), {}
    for stream, (label, tensors) in sources.items():
        records = records_of(tensors)
        digest = digest_records(records)
        store.put(tensors, label=label, state_digest=digest)
        store.refer(digest, target)
        found[stream] = Based(label, relative, records, digest)
    return found


def _sources(model: Model, base: BaseLike | None) -> tuple[dict[str, tuple[str, dict[str, Tensor]]], Path | None]:
    """Give, for each stream that has a base, its label and tensors; and the bundle that they are in."""
    own = list(model.backbones)
    if base is None:
        return {stream: _shipped(model, stream) for stream in own}, None
    path = None
    if isinstance(base, Model):
        given = {
            stream: (_label(base, stream), _dense(backbone.native.state_dict()))
            for stream, backbone in base.backbones.items()
        }
    elif isinstance(base, (str, Path)):
        path = bundle_path(base)
        contents = open_bundle(path, read_contents)
        streams, place = contents.manifest.model.streams, f" of the bundle {path.name!r}"
        given = {name: (streams[name].backbone.reference + place, held) for name, held in _backbones(contents).items()}
    else:
        raise ConfigError(f"base must be a model or a bundle's folder, got {type(base).__name__}.")
    if len(given) == len(own) == 1:
        return {own[0]: next(iter(given.values()))}, path
    if not (both := set(own) & set(given)):
        raise ConfigError(f"The base has the streams {', '.join(given)}, and the model has {', '.join(own)}.")
    return {stream: given[stream] for stream in own if stream in both}, path


def _label(model: Model, stream: str) -> str:
    return f"{model.spec.streams[stream].backbone.reference} of another model"


def _shipped(model: Model, stream: str) -> tuple[str, dict[str, Tensor]]:
    """Give the weights that the library ships for a backbone, as its provider reads them.

    Raises:
        ConfigError: If it was built without, or they cannot be had.
    """
    spec = model.spec.streams[stream].backbone
    if spec.weights is None:
        raise ConfigError(
            f"The backbone of the stream {stream!r} was built with random weights, so there are none to be based on; "
            "name a bundle that has most of its tensors: base='bundles/first'; or save with kind='full'."
        )
    if spec.widths:
        raise ConfigError(
            f"The backbone of the stream {stream!r} is pruned, so it has nothing in common with the weights of "
            f"{spec.reference}; name a bundle of the same widths, or save with kind='full'."
        )
    try:
        built = registry().provider(spec.provider).build(spec, weights="pretrained")
    except ZooError as error:
        raise ConfigError(
            f"The weights of {spec.reference}, on which the stream {stream!r} would be based, cannot be had: {error}"
        ) from error
    return spec.reference, _dense(built.native.state_dict())


def _dense(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return snapshot({NATIVE: state}).of(NATIVE)


def base_tensors(entry: Base, stream: str, folder: Path, given: BaseLike | None) -> dict[str, Tensor]:
    """Find the tensors that a backbone of a delta bundle is based on, but for those that it has not.

    Args:
        entry: What the bundle says of its base.
        stream: The stream.
        folder: The bundle's folder.
        given: What the caller says has it; None to look in the store, then where the base was at save.

    Raises:
        BundleError: If it is nowhere, or something else.
    """
    if given is not None:
        tensors = _given(entry, stream, given)
    elif entry.state_digest in (store := Store()):
        tensors = store.get(entry.state_digest)
    else:
        tensors = _beside(entry, stream, folder)
    left_out = set(entry.left_out)
    if len(left_out) != len(entry.left_out) or not left_out <= tensors.keys():
        raise BundleError(f"{folder} does not follow the format: it leaves out tensors that its base has not.")
    return {name: tensor for name, tensor in tensors.items() if name not in left_out}


def _given(entry: Base, stream: str, given: BaseLike) -> dict[str, Tensor]:
    if isinstance(given, Model):
        states = {name: _dense(backbone.native.state_dict()) for name, backbone in given.backbones.items()}
        what = "the model"
    elif isinstance(given, (str, Path)):
        states, what = _states(bundle_path(given)), str(given)
    else:
        raise ConfigError(f"base must be a model or a bundle's folder, got {type(given).__name__}.")
    found = _same(entry, stream, states)
    if found is None:
        raise BundleError(
            f"base={what!r} is not what the stream {stream!r} is based on: it must have a backbone of {entry.label} "
            f"with the state digest {entry.state_digest}."
        )
    return found


def _beside(entry: Base, stream: str, folder: Path) -> dict[str, Tensor]:
    """Read the base from the bundle that it was in at save.

    Raises:
        BundleError: If it is not there.
    """
    found = None
    if entry.path is not None:
        place = bundle_path(folder / entry.path)
        try:
            found = _same(entry, stream, _states(place))
        except BundleError:
            found = None
    if found is None:
        raise BundleError(
            f"{folder} needs what its stream {stream!r} is based on, {entry.label} with the state digest "
            f"{entry.state_digest}, which is not in the store {Store().root}; put it there with: zoo store add "
            f"{'BUNDLE' if ' ' in entry.label else entry.label}, or name what has it: zoo.load(…, base=…)."
        )
    return found


def _states(path: Path) -> dict[str, dict[str, Tensor]]:
    """Read the backbones of a bundle; one that is based on a third must have it in the store, so that it ends there."""

    def read(folder: BundleFolder) -> Contents:
        manifest, _ = folder.manifest()
        if isinstance(manifest, Manifest) and any(e.state_digest not in Store() for e in manifest.bases.values()):
            raise BundleError(f"{path} is based on tensors that are not in the store {Store().root}.")
        return read_contents(folder)

    return _backbones(open_bundle(path, read))


def _backbones(contents: Contents) -> dict[str, dict[str, Tensor]]:
    parts = [part for part in contents.manifest.components if part.role == "backbone"]
    return {part.name: contents.tensors.of(f"{part.path}/{NATIVE}") for part in parts}


def _same(entry: Base, stream: str, states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor] | None:
    """Give the state with the base's digest, that of the same stream first."""
    for name in sorted(states, key=lambda name: name != stream):
        if digest_records(records_of(states[name])) == entry.state_digest:
            return dict(states[name])
    return None


def add(what: str | Path, store: Store) -> list[str]:
    """Put backbones in the store, by which delta bundles that were made elsewhere can be loaded.

    Args:
        what: A bundle's folder, or a reference, whose library's weights are then read.
        store: The store.

    Returns:
        The state digests.

    Raises:
        BundleError: If the bundle cannot be read, or the store not be written.
        InvalidReference: If it is neither.
        WeightsError: If the library's weights cannot be had.
    """
    if isinstance(what, Path) or os.path.isdir(what) or ":" not in what:
        path = bundle_path(what)
        contents = open_bundle(path, read_contents)
        streams, place = contents.manifest.model.streams, f" of the bundle {path.name!r}"
        states = [(streams[name].backbone.reference + place, held) for name, held in _backbones(contents).items()]
    else:
        built = build(what)
        streams = built.spec.streams
        found = {name: _dense(backbone.native.state_dict()) for name, backbone in built.backbones.items()}
        states = [(streams[name].backbone.reference, held) for name, held in found.items()]
    return [store.put(held, label=label) for label, held in states]
