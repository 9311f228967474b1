"""The tensors of two bundles side by side: read in pieces, never a whole file, and counted by stage."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo.adapters.peft_form import PREFIX
from zoo.bundle.folder import BundleFolder
from zoo.bundle.header import Entry
from zoo.bundle.inspecting import header_of
from zoo.bundle.manifest import EnsembleManifest, FileEntry, Manifest
from zoo.bundle.paths import DELTA, NATIVE
from zoo.errors import BundleError
from zoo.spec import BackboneSpec

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TensorRow", "compare_tensors", "stage_of"]

_PIECE = 2**22
"""Elements that are compared at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRow:
    """How the tensors of one stage differ.

    Args:
        part: The folder that holds them: ``backbones/<stream>`` or ``heads/<name>``.
        stage: Their stage; None where only the library knows it, and for heads.
        module: Their module at the top, where the stage is None.
        equal: Number of tensors that are bit-equal.
        changed: Number of those in both bundles that are not.
        reshaped: Number of these that have another shape or dtype, of which there is no number.
        added: Number of those in the second bundle only.
        removed: Number of those in the first bundle only.
        absolute: Largest change of any element; None if no tensor of one shape changed.
        relative: Largest change of any tensor relative to it, ``|b - a| / |a|`` in the Euclidean norm; None likewise.
    """

    part: str
    stage: str | None
    module: str | None
    equal: int = 0
    changed: int = 0
    reshaped: int = 0
    added: int = 0
    removed: int = 0
    absolute: float | None = None
    relative: float | None = None

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.changed or self.added or self.removed)


Side = tuple[BundleFolder, Manifest | EnsembleManifest]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of a tensor are.

    Args:
        file: The file that has them; of a base's tensor the base's digest and its name there, which tell as much.
        entry: Dtype and shape, and where in the file.
        held: The tensor itself, of a base.
    """

    file: str
    entry: Entry
    held: Tensor | None = None


def compare_tensors(one: Side, other: Side) -> tuple[TensorRow, ...]:
    """Compare the tensors of two bundles, their own and not those of members.

    Args:
        one: The first bundle, open, and its manifest.
        other: The second.

    Returns:
        A row for each part and stage, in the order of the parts.

    Raises:
        BundleError: If a file is missing or its header is damaged.
    """
    mine, theirs = _held(one), _held(other)
    rows: dict[tuple[str, str | None, str | None], dict[str, float]] = {}
    with ExitStack() as opened:
        pair = _Files(one, opened), _Files(other, opened)
        for file, name in sorted({*mine, *theirs}):
            old, new = mine.get((file, name)), theirs.get((file, name))
            row = rows.setdefault(_row_of(file, name, one[1] if old is not None else other[1]), {})
            for key, value in _outcome(pair, old, new).items():
                row[key] = max(row.get(key, 0.0), value) if key in ("absolute", "relative") else row.get(key, 0) + value
    order = {name: place for place, name in enumerate(_parts(one[1]) + _parts(other[1]))}
    found = [_row(*key, counts) for key, counts in rows.items()]
    return tuple(sorted(found, key=lambda row: (order.get(row.part, -1), _rank(row, one[1], other[1]))))


def _row(part: str, stage: str | None, module: str | None, counts: Mapping[str, float]) -> TensorRow:
    whole = {key: int(counts.get(key, 0)) for key in ("equal", "changed", "reshaped", "added", "removed")}
    absolute, relative = counts.get("absolute"), counts.get("relative")
    return TensorRow(part=part, stage=stage, module=module, absolute=absolute, relative=relative, **whole)


def _outcome(pair: tuple[_Files, _Files], old: Place | None, new: Place | None) -> dict[str, float]:
    if old is None or new is None:
        return {"added" if old is None else "removed": 1}
    if (old.entry.dtype, old.entry.shape) != (new.entry.dtype, new.entry.shape):
        return {"changed": 1, "reshaped": 1}
    changes = _Changes(old.entry.dtype)
    if pair[0].identity(old) != pair[1].identity(new):
        for piece in zip(pair[0].pieces(old), pair[1].pieces(new), strict=True):
            changes.add(*piece)
    return changes.outcome()


class _Changes:
    """What differs between two tensors of one dtype and shape, piece by piece."""

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype
        self._differs = False
        self._largest, self._apart, self._whole = 0.0, 0.0, 0.0

    def add(self, old: bytearray, new: bytearray) -> None:
        differs = old != new
        self._differs |= differs
        first = self._numbers(old)
        self._whole += float((first.abs() ** 2).sum())
        if differs:
            gap = (self._numbers(new) - first).abs()
            self._largest = max(self._largest, _finite(float(gap.max())))
            self._apart += _finite(float((gap**2).sum()))

    def _numbers(self, data: bytearray) -> Tensor:
        import torch

        values = torch.frombuffer(data, dtype=getattr(torch, self._dtype))
        return values.to(torch.complex128 if values.is_complex() else torch.float64)

    def outcome(self) -> dict[str, float]:
        if not self._differs:
            return {"equal": 1}
        relative = math.sqrt(self._apart / self._whole) if self._whole > 0 else math.inf
        return {"changed": 1, "absolute": self._largest, "relative": _finite(relative)}


def _finite(value: float) -> float:
    """Make what is no number infinitely far."""
    return math.inf if math.isnan(value) else value


class _Files:
    """The tensor files of an open bundle, each opened when it is first needed."""

    def __init__(self, side: Side, stack: ExitStack) -> None:
        self._folder, self._manifest = side
        self._stack = stack
        self._open: dict[str, int] = {}

    def identity(self, place: Place) -> tuple[FileEntry | str, int]:
        """Give the file and the place in it: what two tensors share that are equal because their files are."""
        return (place.file if place.held is not None else self._manifest.files[place.file]), place.entry.start

    def pieces(self, place: Place) -> Iterator[bytearray]:
        """Give a tensor's bytes, some elements at a time."""
        step = _PIECE * 8
        if place.held is not None:
            from zoo.bundle.tensors import flat_bytes

            flat = flat_bytes(place.held)
            yield from (bytearray(flat[start : start + step]) for start in range(0, len(flat), step))
            return
        for start in range(place.entry.start, place.entry.stop, step):
            yield self._read(place.file, start, min(step, place.entry.stop - start))

    def _read(self, file: str, start: int, size: int) -> bytearray:
        if file not in self._open:
            opened = self._stack.enter_context(self._folder.file(file, self._manifest.files[file]))
            self._open[file] = opened.fd
        data = bytearray(size)
        at = 0
        while at < size and (got := os.preadv(self._open[file], [memoryview(data)[at:]], start + at)):
            at += got
        if at < size:
            raise BundleError(f"{self._folder.path}/{file} was cut while it was read. Get the bundle again.")
        return data


def _held(side: Side) -> dict[tuple[str, str], Place]:
    """Give every tensor of a bundle by file and name, those that are tied to others or are a base's too."""
    folder, manifest = side
    found = _based(folder, manifest) if isinstance(manifest, Manifest) else {}
    for file, listed in manifest.files.items():
        if file.endswith(".safetensors") and not file.startswith("members/"):
            named = file.removesuffix(DELTA) + NATIVE if file.endswith("/" + DELTA) else file
            with folder.file(file, listed) as opened:
                found |= {(named, name): Place(file, entry) for name, entry in header_of(opened).items()}
    for first, *others in manifest.tied if isinstance(manifest, Manifest) else ():
        source = _split(first)
        if source not in found:
            raise BundleError(f"{folder.path}: the tensor {first!r} must be there, because others are tied to it.")
        found |= {_split(other): found[source] for other in others}
    return found


def _based(folder: BundleFolder, manifest: Manifest) -> dict[tuple[str, str], Place]:
    """Give the tensors of a delta bundle's bases; the base must be found, as for loading."""
    found = {}
    for stream, base in manifest.bases.items():
        from zoo.bundle.basing import base_tensors

        for name, tensor in base_tensors(base, stream, folder.path, None).items():
            entry = Entry(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), 0, 0)
            found[f"backbones/{stream}/{NATIVE}", name] = Place(f"{base.state_digest} {name}", entry, tensor)
    return found


def _split(name: str) -> tuple[str, str]:
    file, _, key = name.partition(":")
    return file, key


# --- stages


def _parts(manifest: Manifest | EnsembleManifest) -> list[str]:
    if not isinstance(manifest, Manifest):
        return []
    return [part.path for part in manifest.components] + [adapter.path for adapter in manifest.adapters]


def _row_of(file: str, name: str, manifest: Manifest | EnsembleManifest) -> tuple[str, str | None, str | None]:
    part, _, kind = file.rpartition("/")
    folder, _, stream = part.partition("/")
    if folder == "adapters" and isinstance(manifest, Manifest):
        on = next(adapter.stream for adapter in manifest.adapters if adapter.path == part)
        inside = name.removeprefix(PREFIX)
        stage = stage_of(inside, manifest.model.streams[on].backbone)
        return part, stage, inside.split(".")[0] if stage is None else None
    if folder == "backbones" and kind == NATIVE and isinstance(manifest, Manifest) and stream in manifest.model.streams:
        stage = stage_of(name, manifest.model.streams[stream].backbone)
        if stage is not None:
            return part, stage, None
    return part or file, None, name.split(".")[0]


def stage_of(name: str, spec: BackboneSpec) -> str | None:
    """Give the stage of a tensor, as far as a spec alone tells it.

    A tensor inside the module in which a stage ends is of that stage, and so is one of a numbered sibling between the
    ends of two stages, since siblings run in the order of their numbers. What else belongs to a stage only the library
    knows.

    Args:
        name: The tensor's name in the library's module.
        spec: The backbone.

    Returns:
        The stage, or None.
    """
    before: str | None = None
    for stage in spec.stages:
        if stage.module and stage.name not in ("stem", "post"):
            if name.startswith(stage.module + ".") or _between(name, before, stage.module):
                return stage.name
            before = stage.module
    return None


def _between(name: str, before: str | None, end: str) -> bool:
    parent, _, last = end.rpartition(".")
    if before is None or not last.isdecimal() or before.rpartition(".")[0] != parent:
        return False
    prefix, first = (parent + "." if parent else ""), before.rpartition(".")[2]
    number = name.removeprefix(prefix).split(".")[0]
    inside = name.startswith(prefix) and number.isdecimal() and first.isdecimal()
    return inside and int(first) < int(number) <= int(last)


def _rank(row: TensorRow, *manifests: Manifest | EnsembleManifest) -> tuple[int, str]:
    """Order the rows of a part: its stages as they run, then modules by name."""
    stream = row.part.partition("/")[2]
    for manifest in manifests:
        streams = manifest.model.streams if isinstance(manifest, Manifest) else {}
        if isinstance(manifest, Manifest) and row.part.startswith("adapters/"):
            stream = next((adapter.stream for adapter in manifest.adapters if adapter.path == row.part), stream)
        if row.stage is not None and stream in streams:
            names = [stage.name for stage in streams[stream].backbone.stages]
            if row.stage in names:
                return names.index(row.stage), ""
    return 1000, row.module or ""
