"""Running a bundle's model on its probe, and saying which libraries are of another version than at save."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from zoo.bundle.ensemble_loading import EnsembleContents, restore_ensemble
from zoo.bundle.folder import open_bundle
from zoo.bundle.loading import Contents, read_any, restore
from zoo.bundle.manifest import Manifest
from zoo.bundle.probe import compare
from zoo.errors import ZooError
from zoo.model import Model

__all__ = ["installed", "run_probe", "skew_of"]


def run_probe(folder: Path) -> tuple[dict[str, float] | None, dict[str, tuple[str, str]], list[str]]:
    """Compare what a model, or each member of an ensemble, gives now with what it gave when it was saved.

    Args:
        folder: The bundle's folder; its files are known to be well.

    Returns:
        Task name to the largest difference, None if there is no probe; library to its version at save and now, where
        they differ; and one sentence for each problem.
    """
    try:
        contents = open_bundle(folder, lambda opened: read_any(opened, {}))
    except ZooError as error:
        return None, {}, [str(error)]
    members = contents.members if isinstance(contents, EnsembleContents) else {"": contents}
    skew = skew_of(held.manifest for held in members.values())
    try:
        models = _models(contents, str(folder))
    except ZooError as error:
        return None, skew, [f"{error} {_told(skew)}"]
    differences: dict[str, float] = {}
    problems: list[str] = []
    probed = False
    for member, model in models.items():
        probe = members[member].manifest.probe
        if probe is None:
            continue
        probed = True
        place = f"{member}/" if member else ""
        for name, difference in compare(model, probe).items():
            differences[place + name] = difference
            allowed = probe.outputs[name].tolerance
            if not difference <= allowed:
                problems.append(
                    f"The task {place + name!r} gives another output than when it was saved: the difference is "
                    f"{difference:.3g}, {allowed:.3g} is allowed. {_told(skew)}"
                )
    return (differences if probed else None), skew, problems


def skew_of(manifests: Iterable[Manifest]) -> dict[str, tuple[str, str]]:
    """Give the libraries of which another version is installed than the one at save: name to both versions."""
    found: dict[str, tuple[str, str]] = {}
    for manifest in manifests:
        saved = {"torch": manifest.created.torch}
        saved |= {s.backbone.library: s.backbone.library_version for s in manifest.model.streams.values()}
        saved |= {plugin.distribution: plugin.version for plugin in manifest.requires}
        if manifest.adapters:
            saved["peft"] = manifest.adapters[0].peft
        for library, then in saved.items():
            now = installed(library)
            if now is not None and now != then:
                found[library] = then, now
    return found


def installed(library: str) -> str | None:
    """Give the version of an installed library; None where no package has that name, as for a user's own module."""
    if library == "torch":
        import torch

        return str(torch.__version__)  # as bundles have it, with what it was built for
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _models(contents: Contents | EnsembleContents, where: str) -> dict[str, Model]:
    if isinstance(contents, EnsembleContents):
        return dict(restore_ensemble(contents, where=where).members.items())
    return {"": restore(contents, where=where)}


def _told(skew: Mapping[str, tuple[str, str]]) -> str:
    if not skew:
        return "All libraries are of the versions that it was saved with, so the processor or its settings differ."
    told = "; ".join(f"{library} {then} then, {now} now" for library, (then, now) in sorted(skew.items()))
    return f"Libraries have changed since: {told}; install the earlier ones, or train and save the model again."
