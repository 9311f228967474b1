"""Loading a bundle: everything checked, nothing fetched, nothing imported because a file says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.bundle.folder import BundleFolder, open_bundle
from zoo.bundle.manifest import EnsembleManifest, Manifest
from zoo.bundle.paths import NATIVE, OWN, bundle_path
from zoo.errors import BundleError
from zoo.registry import registry

if TYPE_CHECKING:
    import torch

    from zoo.bundle.ensemble_loading import EnsembleContents
    from zoo.bundle.rebuilding import Own
    from zoo.bundle.tensors import TensorSet
    from zoo.ensembling.ensemble import Ensemble
    from zoo.model import Model

__all__ = ["load", "load_model"]


def load(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    modules: Mapping[str, Own] | None = None,
    members: Mapping[str, str | Path] | None = None,
) -> Model | Ensemble:
    """Load a model or an ensemble from its bundle, as it was saved: weights, ties, layouts, frozen stages, provenance.

    Every file that the manifest lists must be there with the size and digest that it had; other files in the folder
    are not read. Nothing is downloaded.

    Args:
        path: The bundle's folder.
        device: Where the model is to be.
        modules: Stream to module, or to what makes one, for a bundle of :func:`zoo.wrap`, which needs code; the
            bundle's tensors are poured into it. Which class that is stands in the error without it; nothing is ever
            imported by a name in a bundle. For an ensemble, ``member.stream`` to module.
        members: Member to the folder of its bundle, for an ensemble that refers to bundles that are elsewhere now; they
            must be those that it was saved with.

    Returns:
        The model or ensemble, in eval mode.

    Raises:
        BundleError: If the bundle is missing, cut, edited or from a newer zoo, or needs a plugin or a module that
            is not there.
        PluginError: If a plugin that it needs is broken.
        ConfigError: If there is no such device.
    """
    from zoo.predicting import as_device

    place = as_device(device)
    found = open_bundle(bundle_path(path), lambda folder: read_any(folder, members or {}))
    if isinstance(found, Contents):
        return restore(found, where=str(path), device=place, modules=modules)
    from zoo.bundle.ensemble_loading import restore_ensemble

    return restore_ensemble(found, where=str(path), device=place, modules=modules)


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


def read_any(folder: BundleFolder, members: Mapping[str, str | Path]) -> Contents | EnsembleContents:
    """Read and check all files of a bundle of any kind.

    Raises:
        BundleError: If anything is missing, cut, edited or from a newer zoo, or members are given for a single model.
    """
    manifest, _ = folder.manifest()
    if isinstance(manifest, EnsembleManifest):
        from zoo.bundle.ensemble_loading import read_members

        return read_members(folder, manifest, members)
    if members:
        raise BundleError(f"{folder.path} is the bundle of a single model, and takes no members.")
    return read_contents(folder)


@dataclass(frozen=True, slots=True)
class Contents:
    """All that a bundle holds, in memory.

    Args:
        manifest: Its manifest.
        tensors: Its tensors.
        texts: Path to content of its other files.
    """

    manifest: Manifest
    tensors: TensorSet
    texts: Mapping[str, bytes]


def read_contents(folder: BundleFolder) -> Contents:
    """Read and check all files of a bundle.

    Raises:
        BundleError: If anything is missing, cut, edited or from a newer zoo.
    """
    from zoo.bundle.tensors import TensorSet, decode

    manifest, _ = folder.manifest()
    if not isinstance(manifest, Manifest):
        raise BundleError(f"{folder.path} is the bundle of an ensemble, which cannot be a member of another.")
    check_plugins(manifest, str(folder.path))
    holders = tensor_files(manifest)
    files, texts = {}, {}
    for name, entry in manifest.files.items():
        data = folder.read(name, entry)
        if name in holders:
            files[name] = decode(data, f"{folder.path}/{name}")
        else:
            texts[name] = bytes(data)
    layouts = {str(layout): names for layout, names in manifest.memory_formats.items()}
    return Contents(manifest, TensorSet(files, manifest.tied, layouts), texts)


def tensor_files(manifest: Manifest) -> list[str]:
    """List the files that hold the model's tensors."""
    names = [f"{part.path}/{file}" for part in manifest.components for file in (NATIVE, OWN)]
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
    model = rebuild(spec, contents.tensors, texts=contents.texts, where=where, device=device, modules=modules)
    for stream, stages in manifest.frozen.items():
        model.set_frozen(stream, frozenset(stages))
    model.provenance = dict(manifest.provenance)
    return model
