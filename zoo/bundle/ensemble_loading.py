"""Loading an ensemble: every member's bundle checked as one alone, and against what the ensemble says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.bundle.folder import BundleFolder, open_bundle
from zoo.bundle.loading import Contents, read_contents, restore
from zoo.bundle.manifest import EnsembleManifest, Manifest, MemberEntry
from zoo.bundle.paths import MANIFEST, STACKS, bundle_path
from zoo.errors import BundleError, ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from zoo.bundle.rebuilding import Own
    from zoo.ensembling.combining import Stack
    from zoo.ensembling.ensemble import Ensemble

__all__ = ["EnsembleContents", "check_member", "place_of", "read_members", "restore_ensemble"]


@dataclass(frozen=True, slots=True)
class EnsembleContents:
    """All that an ensemble's bundle holds, in memory.

    Args:
        manifest: Its manifest.
        members: Member to what its bundle holds.
        origins: Member to the folder of its bundle, for those that are referred to.
        stacks: The tensors of stacking.
    """

    manifest: EnsembleManifest
    members: Mapping[str, Contents]
    origins: Mapping[str, Path]
    stacks: Mapping[str, Tensor]


def place_of(folder: Path, entry: MemberEntry, members: Mapping[str, str | Path]) -> Path:
    """Say where the bundle of a member is that is referred to."""
    return bundle_path(members[entry.name] if entry.name in members else folder / str(entry.path))


def check_member(folder: BundleFolder, entry: MemberEntry, outer: EnsembleManifest) -> Manifest:
    """Compare a member's manifest with what the ensemble says of it.

    Raises:
        BundleError: If it is another bundle.
    """
    manifest, identity = folder.manifest()
    if identity != entry.id:
        raise BundleError(
            f"{folder.path} is not the bundle that the ensemble was saved with: its id must be {entry.id[:12]}…, got "
            f"{identity[:12]}…; save the ensemble again, or say where that bundle is: "
            f"zoo.load(…, members={{{entry.name!r}: …}})."
        )
    if not isinstance(manifest, Manifest):
        raise BundleError(f"{folder.path} is the bundle of an ensemble, which cannot be a member of another.")
    spec = next(member.model for member in outer.ensemble.members if member.name == entry.name)
    place = f"members/{entry.name}/"
    inside = {name.removeprefix(place): e for name, e in outer.files.items() if name.startswith(place)}
    inside.pop(MANIFEST, None)
    if spec != manifest.model or (entry.path is None and inside != dict(manifest.files)):
        raise BundleError(f"{folder.path} is not what the ensemble says of it; save the ensemble again.")
    return manifest


def read_members(
    folder: BundleFolder, manifest: EnsembleManifest, members: Mapping[str, str | Path]
) -> EnsembleContents:
    """Read and check all files of an ensemble's bundle, and of the bundles that it refers to.

    Args:
        folder: The open bundle.
        manifest: Its manifest.
        members: Member to folder, for bundles that are elsewhere now.

    Raises:
        BundleError: If anything is missing, cut, edited or from a newer zoo, or a member is another bundle.
    """
    from zoo.bundle.reading import read_file

    referred = [entry.name for entry in manifest.members if entry.path is not None]
    for name in members:
        if name not in referred:
            raise BundleError(
                f"{folder.path} refers to no member {name!r}; those that it refers to: {', '.join(referred) or 'none'}."
            )
    found: dict[str, Contents] = {}
    origins: dict[str, Path] = {}
    for entry in manifest.members:
        if entry.path is None:
            with folder.inner(f"members/{entry.name}") as inner:
                check_member(inner, entry, manifest)
                found[entry.name] = read_contents(inner)
        else:
            origins[entry.name] = place_of(folder.path, entry, members)

            def read(inner: BundleFolder, entry: MemberEntry = entry) -> Contents:
                check_member(inner, entry, manifest)
                return read_contents(inner)

            try:
                found[entry.name] = open_bundle(origins[entry.name], read)
            except BundleError as error:
                raise BundleError(f"The member {entry.name!r} of {folder.path} cannot be had: {error}") from error
    stacks: Mapping[str, Tensor] = {}
    for name, file in manifest.files.items():
        if not name.startswith("members/"):
            if name == STACKS:
                with folder.file(name, file) as opened:
                    stacks = read_file(opened)
            else:
                folder.read(name, file)
    return EnsembleContents(manifest, found, origins, stacks)


def restore_ensemble(
    contents: EnsembleContents,
    *,
    where: str,
    device: torch.device | None = None,
    modules: Mapping[str, Own] | None = None,
) -> Ensemble:
    """Rebuild an ensemble; the arguments are those of ``zoo.load``.

    Raises:
        BundleError: If a member cannot be rebuilt, or they are no ensemble.
        PluginError: If a plugin that a member needs is broken.
    """
    from zoo.contracts.modules import ModuleMap
    from zoo.ensembling.ensemble import Ensemble
    from zoo.ensembling.spec import MemberSpec

    own = _by_member(modules or {}, contents.manifest, where)
    models = {
        name: restore(held, where=f"{where}/members/{name}", device=device, modules=own.get(name))
        for name, held in contents.members.items()
    }
    members = tuple(MemberSpec(name=name, model=model.spec) for name, model in models.items())
    try:
        ensemble = Ensemble(replace(contents.manifest.ensemble, members=members), models)
    except ConfigError as error:
        raise BundleError(f"The ensemble in {where} cannot be rebuilt: {error}") from error
    stacks = _stacks(contents, ensemble, where)
    ensemble.stacks = ModuleMap(stacks).to(device)
    ensemble.origins = dict(contents.origins)
    ensemble.provenance = dict(contents.manifest.provenance)
    return ensemble.eval()


def _by_member(modules: Mapping[str, Own], manifest: EnsembleManifest, where: str) -> dict[str, dict[str, Own]]:
    """Give the user's modules, ``member.stream``, by member and stream."""
    names = [entry.name for entry in manifest.members]
    found: dict[str, dict[str, Own]] = {}
    for key, module in modules.items():
        member, dot, stream = key.partition(".")
        if not dot or member not in names:
            raise BundleError(
                f"{where} is an ensemble of {', '.join(names)}; modules must be 'member.stream', got {key!r}."
            )
        found.setdefault(member, {})[stream] = module
    return found


def _stacks(contents: EnsembleContents, ensemble: Ensemble, where: str) -> dict[str, Stack]:
    """Rebuild the linear models of stacking.

    Raises:
        BundleError: If their tensors are not those of the ensemble.
    """
    from zoo.ensembling.combining import Stack

    count, found = len(ensemble.members), {}
    left = dict(contents.stacks)
    names = ensemble.tasks() if left and ensemble.spec.combine == "stacking" else {}
    for name in names:
        weight, bias = left.pop(f"{name}.weight", None), left.pop(f"{name}.bias", None)
        fits = weight is not None and bias is not None and weight.ndim == 2 and len(weight) == count
        if weight is None or bias is None or not fits or bias.shape != weight.shape[1:]:
            raise BundleError(f"The tensors of {where}/{STACKS} do not fit the task {name!r}; save the ensemble again.")
        found[name] = Stack(count, weight.shape[1])
        found[name].weight, found[name].bias = weight, bias
    if left:
        raise BundleError(f"The tensors of {where}/{STACKS} belong to no task; save the ensemble again.")
    return found
