"""Saving an ensemble: its members' whole bundles inside, or where they are and what they must be."""

from __future__ import annotations

import os
from pathlib import Path

from zoo.bundle.card import ensemble_card
from zoo.bundle.folder import open_bundle
from zoo.bundle.manifest import EnsembleManifest, FileEntry, Manifest, MemberEntry, dump
from zoo.bundle.paths import MANIFEST, STACKS
from zoo.bundle.plain_json import canonical, plain
from zoo.bundle.rebuilding import states_of
from zoo.bundle.saving import components_of, created, write
from zoo.bundle.staging import staged
from zoo.bundle.tensors import encode, snapshot
from zoo.ensembling.ensemble import Ensemble
from zoo.errors import BundleError
from zoo.model import Model
from zoo.strict import to_json

__all__ = ["save_ensemble"]


def save_ensemble(ensemble: Ensemble, target: Path, *, overwrite: bool, refer: bool, probe: bool = True) -> None:
    """Write the bundle of an ensemble, all at once or not at all.

    Args:
        ensemble: The ensemble.
        target: The bundle's folder.
        overwrite: Whether to replace a bundle that is there.
        refer: Whether to keep only where the members' bundles are.
        probe: Whether to run the members on the probe.

    Raises:
        BundleError: If a member cannot be kept as it is, or to be referred to has no bundle that is the same as it.
    """
    provenance = plain(ensemble.provenance, "provenance")
    members = {name: _referred(ensemble, name, target) for name in ensemble.members} if refer else {}
    with staged(target, overwrite=overwrite) as folder:
        files: dict[str, FileEntry] = {}
        for name, model in () if refer else ensemble.members.items():
            place = f"members/{name}/"
            written = write(model, folder, place, probe=probe)
            files |= written
            members[name] = MemberEntry(name=name, id=written[place + MANIFEST].blake3)
        if len(ensemble.stacks):
            states = {STACKS: ensemble.stacks.state_dict()}
            files[STACKS] = folder.write(STACKS, encode(snapshot(states).files[STACKS]))
        texts = {
            "config.json": canonical({"library_name": "zoo", "zoo_format": 1}) + b"\n",
            "README.md": ensemble_card(ensemble.spec, provenance).encode("utf-8"),
        }
        files |= {name: folder.write(name, data) for name, data in texts.items()}
        manifest = EnsembleManifest(
            created=created(),
            ensemble=ensemble.spec,
            members=tuple(members.values()),
            files=files,
            provenance=provenance,
        )
        folder.write(MANIFEST, dump(manifest))


def _referred(ensemble: Ensemble, name: str, target: Path) -> MemberEntry:
    """Say where the bundle of a member is, if it is the same as the member.

    Raises:
        BundleError: If it is not.
    """
    origin = ensemble.origins.get(name)
    if origin is None:
        raise BundleError(
            f"The member {name!r} does not come from a bundle, so it cannot be referred to; save it first and make the "
            "ensemble from its folder, or save with members='embed'."
        )
    manifest, identity = open_bundle(origin, lambda folder: folder.manifest())
    if not isinstance(manifest, Manifest) or not _is_same(ensemble.members[name], manifest):
        raise BundleError(
            f"The member {name!r} is not what is in {origin} any more; save it again, or save with members='embed'."
        )
    return MemberEntry(name=name, id=identity, path=Path(os.path.relpath(origin, target)).as_posix())


def _is_same(model: Model, manifest: Manifest) -> bool:
    if to_json(model.spec) != to_json(manifest.model):
        return False
    digests = {part.path: part.state_digest for part in components_of(model, snapshot(states_of(model)))}
    return digests == {part.path: part.state_digest for part in manifest.components}
