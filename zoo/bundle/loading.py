"""Loading a bundle: everything checked, nothing fetched, nothing imported because a file says so."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.adapters.peft_form import TENSORS
from zoo.bundle.adapters import check_configs, spec_of
from zoo.bundle.folder import BundleFolder, open_bundle
from zoo.bundle.manifest import EnsembleManifest, Manifest
from zoo.bundle.method_states import is_state, read_states
from zoo.bundle.paths import DELTA, NATIVE, OWN, STATES, bundle_path
from zoo.errors import BundleError, ConfigError
from zoo.registry import registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from zoo.bundle.basing import BaseLike
    from zoo.bundle.ensemble_loading import EnsembleContents
    from zoo.bundle.rebuilding import Own
    from zoo.bundle.tensors import TensorSet
    from zoo.contracts.backbone import Backbone
    from zoo.ensembling.ensemble import Ensemble
    from zoo.model import Model

__all__ = ["load", "load_model"]


def load(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    modules: Mapping[str, Own] | None = None,
    members: Mapping[str, str | Path] | None = None,
    base: BaseLike | None = None,
    sharing: Model | None = None,
) -> Model | Ensemble:
    """Load a model or an ensemble from its bundle, as it was saved: weights, ties, layouts, frozen stages, provenance.

    Every file that the manifest lists must be there with the size and digest that it had; other files in the folder
    are not read. From a folder nothing is downloaded.

    Args:
        path: The bundle's folder; for ``zoo.load`` also its URL, such as ``s3://bucket/pets``,
            ``https://example.org/pets`` or ``hf://user/name@revision``. What is there is brought into the cache folder,
            checked, and loaded from that.
        device: Where the model is to be.
        modules: Stream to module, or to what makes one, for a bundle of :func:`zoo.wrap`, which needs code; the
            bundle's tensors are poured into it. Which class that is stands in the error without it; nothing is ever
            imported by a name in a bundle. For an ensemble, ``member.stream`` to module.
        members: Member to the folder of its bundle, for an ensemble that refers to bundles that are elsewhere now; they
            must be those that it was saved with.
        base: For a bundle that keeps only what differs from its base: a model or a bundle's folder that has the base,
            where it is neither in the store nor where it was when the bundle was saved. It must be the very same.
        sharing: A model that is loaded already. Backbones that it has in the same streams and that are the same byte
            for byte are not read but taken over, module and all, so that only the heads are loaded; what one of the
            two models then learns, or freezes, in a common backbone, the other has too.

    Returns:
        The model or ensemble, in eval mode.

    Raises:
        BundleError: If the bundle is missing, cut, edited or from a newer zoo, or needs a plugin, a module or a base
            that is not there.
        PluginError: If a plugin that it needs is broken.
        ConfigError: If there is no such device, or ``sharing`` is for something else than this.
    """
    from zoo.model import Model
    from zoo.predicting import as_device

    place = as_device(device)
    if sharing is not None and not isinstance(sharing, Model):
        raise ConfigError(f"sharing must be a model, got {type(sharing).__name__}.")
    with _nothing_collected():
        found = open_bundle(bundle_path(path), lambda folder: read_any(folder, members or {}, base, sharing))
        if isinstance(found, Contents):
            return restore(found, where=str(path), device=place, modules=modules)
        from zoo.bundle.ensemble_loading import restore_ensemble

        return restore_ensemble(found, where=str(path), device=place, modules=modules)


@contextlib.contextmanager
def _nothing_collected() -> Iterator[None]:
    """Leave garbage for later: a model's many objects are all kept, and looking through them costs a load dear."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def load_model(path: str | Path, *, modules: Mapping[str, Own] | None = None) -> Model:
    """Load the bundle of a single model; the arguments and errors are those of :func:`load`.

    Raises:
        BundleError: If it is the bundle of an ensemble.
    """
    from zoo.model import Model

    found = load(path, modules=modules)
    if not isinstance(found, Model):
        raise BundleError(f"{path} is the bundle of an ensemble, and a single model is needed here; give one of those.")
    return found


def read_any(
    folder: BundleFolder,
    members: Mapping[str, str | Path],
    base: BaseLike | None = None,
    sharing: Model | None = None,
) -> Contents | EnsembleContents:
    """Read and check all files of a bundle of any kind.

    Raises:
        BundleError: If anything is missing, cut, edited or from a newer zoo, or members are given for a single model.
        ConfigError: If a base or a model to share with is given for an ensemble.
    """
    manifest, _ = folder.manifest()
    if isinstance(manifest, EnsembleManifest):
        from zoo.bundle.ensemble_loading import read_members

        if base is not None or sharing is not None:
            raise ConfigError(f"{folder.path} is the bundle of an ensemble, and takes no base or sharing.")
        return read_members(folder, manifest, members)
    if members:
        raise BundleError(f"{folder.path} is the bundle of a single model, and takes no members.")
    return read_contents(folder, base, sharing)


@dataclass(frozen=True, slots=True)
class Contents:
    """All that a bundle holds, in memory.

    Args:
        manifest: Its manifest.
        tensors: Its tensors.
        texts: Path to content of its other files.
        taken: Stream to backbone, for those that another model has already.
        state: Method's name to what it keeps from one run to the next.
    """

    manifest: Manifest
    tensors: TensorSet
    texts: Mapping[str, bytes]
    taken: Mapping[str, Backbone] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)


def read_contents(folder: BundleFolder, base: BaseLike | None = None, sharing: Model | None = None) -> Contents:
    """Read and check all files of a bundle, but for those of backbones that another model has already.

    Args:
        folder: The bundle.
        base: Has what it is based on; None to look where that should be.
        sharing: A model that is loaded already.

    Raises:
        BundleError: If anything is missing, cut, edited or from a newer zoo.
    """
    from zoo.bundle.reading import read_file
    from zoo.bundle.tensors import TensorSet

    manifest, _ = folder.manifest()
    if not isinstance(manifest, Manifest):
        raise BundleError(f"{folder.path} is the bundle of an ensemble, which cannot be a member of another.")
    check_plugins(manifest, str(folder.path))
    taken: dict[str, Backbone] = {}
    if sharing is not None:
        from zoo.bundle.taking import taken_from

        taken = taken_from(sharing, manifest)
    holders = tensor_files(manifest)
    there = {f"backbones/{stream}/{file}" for stream in taken for file in (NATIVE, DELTA)}
    files: dict[str, Mapping[str, Tensor]] = {}
    texts: dict[str, bytes] = {}
    for name, entry in manifest.files.items():
        if name in there or name in STATES or is_state(name):  # a run's state is no part of its model
            continue
        if name in holders:
            with folder.file(name, entry) as opened:
                files[name] = read_file(opened)
        else:
            texts[name] = folder.read(name, entry)
    check_configs(manifest.adapters, texts, str(folder.path))
    for stream, entry_of_base in manifest.bases.items():
        if stream not in taken:
            from zoo.bundle.basing import base_tensors

            place = f"backbones/{stream}"
            whole = base_tensors(entry_of_base, stream, folder.path, base)
            files[f"{place}/{NATIVE}"] = {**whole, **files.pop(f"{place}/{DELTA}", {})}
    layouts = {
        str(layout): tuple(name for name in names if name.partition(":")[0] not in there)
        for layout, names in manifest.memory_formats.items()
    }
    state = read_states(folder, manifest.files)
    return Contents(manifest, TensorSet(files, manifest.tied, layouts), texts, taken, state)


def tensor_files(manifest: Manifest) -> list[str]:
    """List the files that hold the model's tensors."""
    names = [f"{part.path}/{file}" for part in manifest.components for file in (NATIVE, DELTA, OWN)]
    names += [f"{adapter.path}/{TENSORS}" for adapter in manifest.adapters]
    return [name for name in names if name in manifest.files]


def check_plugins(manifest: Manifest, where: str) -> None:
    """Refuse a bundle whose plugins are not installed, before anything is built.

    Raises:
        BundleError: If one is missing; the message names its package.
    """
    for plugin in manifest.requires:
        if plugin.name not in registry().claims:
            raise BundleError(
                f"{where} needs the plugin {plugin.name!r} of {plugin.distribution}, which is not installed or is "
                f"disabled; it was saved with version {plugin.version}. Install the package {plugin.distribution!r}."
            )


def restore(
    contents: Contents,
    *,
    where: str,
    device: torch.device | None = None,
    modules: Mapping[str, Own] | None = None,
) -> Model:
    """Rebuild the model of a bundle; the arguments are those of :func:`load`.

    Raises:
        BundleError: If the tensors do not fit the model that the manifest describes.
        PluginError: If a plugin that it needs is broken.
    """
    from zoo.bundle.rebuilding import ordered, rebuild

    manifest = contents.manifest
    spec = ordered(manifest.model, manifest.streams)
    with registry().asking(plugin.name for plugin in manifest.requires):
        model = rebuild(
            spec,
            contents.tensors,
            texts=contents.texts,
            where=where,
            device=device,
            modules=modules,
            taken=contents.taken,
            adapters=[spec_of(entry) for entry in manifest.adapters],
        )
    for stream, stages in manifest.frozen.items():
        model.set_frozen(stream, frozenset(stages))
    model.provenance = dict(manifest.provenance)
    model.state = dict(contents.state)
    return model
