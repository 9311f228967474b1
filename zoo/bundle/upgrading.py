"""Upgrading a bundle: the same model, written in the present format by the present libraries."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.bundle.folder import open_bundle
from zoo.bundle.inspecting import Inspection, inspect
from zoo.bundle.manifest import FORMAT_VERSION, Manifest
from zoo.bundle.paths import bundle_path
from zoo.bundle.probing import installed
from zoo.bundle.staging import check_target
from zoo.errors import BundleError

if TYPE_CHECKING:
    from zoo.model import Model
    from zoo.spec import ModelSpec

__all__ = ["Upgrade", "upgrade"]


@dataclass(frozen=True, kw_only=True)
class Upgrade:
    """What :func:`upgrade` did.

    Args:
        path: The folder of the bundle that is now current.
        id: Its id.
        parent: The id that it was made from; None if nothing was written.
        changed: What was old: the thing to its versions before and after; empty if nothing was.
    """

    path: str
    id: str
    parent: str | None
    changed: dict[str, tuple[str | None, str]]

    @property
    def current(self) -> bool:
        """Whether the bundle was current already, so that nothing was written."""
        return self.parent is None

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return {**asdict(self), "current": self.current}


def upgrade(path: str | Path, *, out: str | Path | None = None) -> Upgrade:
    """Rewrite a bundle in the present format, under the present versions of the libraries, with a new probe.

    The bundle is first verified in full: every file, and the model against its probe, so that a library that has
    changed what the model gives is found here and not covered up. Provenance is kept, and ``parents`` in it has the old
    id. The new bundle takes the old one's place at once or not at all.

    Args:
        path: The bundle's folder.
        out: Where the new bundle is to be; None to replace the old one.

    Returns:
        What was done; nothing is written where format and versions are the present ones.

    Raises:
        BundleError: If the bundle is not well, gives another output than it did when it was saved, needs code that is
            not in it, or ``out`` exists.
    """
    source = bundle_path(path)
    target = source if out is None else bundle_path(out)
    if target != source:
        check_target(target, overwrite=False)
    found = inspect(source)
    if found.kind == "checkpoint":
        raise BundleError(
            f"{source} is a checkpoint of a run; go on with the run, and upgrade the bundle that it gives."
        )
    old = _old(found)
    if not old:
        return Upgrade(path=str(source), id=found.id, parent=None, changed={})
    _check(source)
    from zoo.bundle.loading import load
    from zoo.bundle.saving import save
    from zoo.model import Model

    model = load(source)
    if isinstance(model, Model):
        model.spec = _present(model.spec)
    elif not any(member.path is not None for member in found.members):
        for name, member in model.members.items():
            member.spec = _present(member.spec)
            model.spec = replace(
                model.spec,
                members=tuple(
                    replace(one, model=member.spec) if one.name == name else one for one in model.spec.members
                ),
            )
    model.provenance = {**model.provenance, "parents": [found.id]}
    if isinstance(model, Model) and found.bases:
        _write_delta(model, source, target)
    else:
        refer = any(member.path is not None for member in found.members)
        save(model, target, overwrite=target == source, members="refer" if refer else None)
    identity = open_bundle(target, lambda folder: folder.manifest()[1])
    return Upgrade(path=str(target), id=identity, parent=found.id, changed=old)


def _write_delta(model: Model, source: Path, target: Path) -> None:
    """Write a delta bundle anew, on the very bases that it has."""
    from zoo.bundle.basing import Based, base_tensors
    from zoo.bundle.digest import Record, records_of
    from zoo.bundle.saving import write
    from zoo.bundle.staging import staged
    from zoo.bundle.store import Store

    manifest = open_bundle(source, lambda folder: folder.manifest()[0])
    entries = manifest.bases if isinstance(manifest, Manifest) else {}
    bases, store = {}, Store()
    for stream, base in entries.items():
        gone = dict.fromkeys(base.left_out, Record("", (), ""))  # the model has none of them to compare
        records = {**records_of(base_tensors(base, stream, source, None)), **gone}
        place = None if base.path is None else Path(os.path.relpath(source / base.path, target)).as_posix()
        bases[stream] = Based(base.label, place, records, base.state_digest)
        if base.state_digest in store:
            store.refer(base.state_digest, target)
    with staged(target, overwrite=target == source) as folder:
        write(model, folder, bases=bases)


def _check(source: Path) -> None:
    """Verify the bundle in full.

    Raises:
        BundleError: If it is not well.
    """
    from zoo.bundle.verifying import verify

    report = verify(source, run=True)
    if not report.ok:
        more = f" (and {len(report.problems) - 1} more problems; see zoo verify)" if len(report.problems) > 1 else ""
        raise BundleError(f"{source} is not well, so it is not upgraded: {report.problems[0]}{more}")


def _old(found: Inspection) -> dict[str, tuple[str | None, str]]:
    """Give what of a bundle is of another version than what is here, by name."""
    import zoo

    versions: dict[str, tuple[str | None, str | None]] = {
        "format": (found.format_version, max(found.format_version or "", FORMAT_VERSION)),  # a pruned one has a later
        "zoo": (found.created.get("by"), f"zoo {zoo.__version__}"),
        "torch": (found.created.get("torch"), installed("torch")),
    }
    for stream in found.streams:
        versions[stream.library] = stream.library_version, installed(stream.library)
    for plugin in found.requires:
        versions[f"plugin {plugin.name}"] = plugin.version, plugin.installed
    told = {name: (old, new) for name, (old, new) in versions.items() if new is not None and old != new}
    for member in found.members:
        inside = {} if member.found is None or member.path is not None else _old(member.found)
        told |= {f"{member.name}: {name}": pair for name, pair in inside.items()}
    return told


def _present(spec: ModelSpec) -> ModelSpec:
    """Let a spec name the installed versions of its libraries."""
    streams = {
        name: replace(
            stream,
            backbone=replace(
                stream.backbone,
                library_version=installed(stream.backbone.library) or stream.backbone.library_version,
            ),
        )
        for name, stream in spec.streams.items()
    }
    return replace(spec, streams=streams)
