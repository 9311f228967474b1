"""The entries of a manifest: small frozen records, which pydantic reads strictly as parts of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["AdapterEntry", "Base", "Component", "Created", "FileEntry", "PluginEntry", "Probe", "ProbeOutput"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """Who made the bundle.

    Args:
        by: ``zoo`` and its version.
        at: When, as ISO 8601 in UTC.
        torch: Version of torch.
        python: Version of Python.
    """

    by: str
    at: str
    torch: str
    python: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginEntry:
    """A plugin without which the model cannot be rebuilt.

    Args:
        name: Its entry point's name.
        distribution: The package that brings it.
        version: That package's version at save.
    """

    name: str
    distribution: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A part of the model with a folder of its own; in the order of streams, then heads.

    Args:
        role: ``backbone`` or ``head``.
        name: The stream's or the head's name.
        type: The provider, or the head's type.
        plugin: Who gives that.
        path: Its folder.
        state_digest: Digest of the tensors in its ``model.safetensors``, tied ones included.
    """

    role: Literal["backbone", "head"]
    name: str
    type: str
    plugin: PluginEntry
    path: str
    state_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The tensors that a backbone of a delta bundle differs from; those that differ are in its ``delta.safetensors``.

    Args:
        state_digest: What they are; nothing else is taken for them.
        label: What they are for a reader: the reference of the library's weights, or a bundle.
        path: The bundle that has them too, relative to this one's folder, with ``/``; None if there is none.
        left_out: Names of those that the model has not.
    """

    state_digest: str
    label: str
    path: str | None = None
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file.

    Args:
        size: Its size, in bytes.
        blake3: Hex digest of its bytes.
    """

    size: int
    blake3: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeOutput:
    """What the model gave for the probe.

    Args:
        shape: Shape of the task's output.
        values: Evenly spaced elements of it, 1024 at the most; None where one was not finite.
        tolerance: Difference up to which another machine's output is the same, in the output's unit.
    """

    shape: tuple[int, ...]
    values: tuple[float | None, ...]
    tolerance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A seeded input and the expected output, by which a library's change of meaning shows.

    Args:
        seed: Seed of the input; see ``zoo.bundle.probe``.
        inputs: Input name to shape.
        outputs: Task name to what the model gave.
    """

    seed: int
    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, ProbeOutput]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterEntry:
    """An adapter that is kept beside a backbone, in the form of its library; :mod:`zoo.adapters` says what each means.

    Args:
        name: Its name.
        stream: The stream whose backbone it is on.
        type: What it is.
        rank: Width of what is between its two matrices.
        alpha: Numerator of its scale.
        dropout: Share of its inputs that is dropped in training.
        targets: Paths of the adapted layers, sorted.
        path: Its folder.
        peft: Version of PEFT at save.
        state_digest: Digest of the tensors in its ``adapter_model.safetensors``.
    """

    name: str
    stream: str
    type: Literal["lora"] = "lora"
    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]
    path: str
    peft: str
    state_digest: str
