"""Tensors on their way to a file and back: bit-equal, or refused by name; never altered."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from operator import mul
from typing import Any, TypeVar

import torch
from torch import Tensor

from zoo.bundle.header import DTYPES, MOST_TENSORS, check_name
from zoo.bundle.reading import decode
from zoo.errors import BundleError

__all__ = ["TensorSet", "decode", "dense", "encode", "flat_bytes", "layout", "pieces", "snapshot", "survey"]

_CODES = {name: code for code, (name, _) in DTYPES.items()}
Held = TypeVar("Held")
FORMATS = {"channels_last": torch.channels_last, "channels_last_3d": torch.channels_last_3d}


@dataclass(frozen=True, slots=True)
class TensorSet:
    """All tensors of a bundle; one is named ``file:key``.

    Args:
        files: File to key to contiguous tensor on the CPU, or as a model has it; one with several names stands under
            the first only.
        tied: Groups of names of one tensor; the first of a group is the one in a file.
        memory_formats: ``channels_last`` or ``channels_last_3d`` to the names of the tensors laid out like that.
    """

    files: Mapping[str, Mapping[str, Tensor]]
    tied: tuple[tuple[str, ...], ...] = ()
    memory_formats: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, file: str) -> dict[str, Tensor]:
        """Give the tensors of one file, with those that are tied to others.

        Raises:
            BundleError: If a group of tied tensors names one that is not there, or is there twice.
        """
        return self.completed(file, self.files)

    def completed(self, file: str, held: Mapping[str, Mapping[str, Held]]) -> dict[str, Held]:
        """Give what is held of the tensors of one file, with that of those that are tied to others.

        Args:
            file: The file.
            held: File to key to something of each tensor in it, such as its digest.

        Raises:
            BundleError: As :meth:`of` does.
        """
        found = dict(held.get(file, {}))
        for first, *others in self.tied:
            source, _, key = first.partition(":")
            if key not in held.get(source, {}):
                raise BundleError(f"The tensor {first!r} must be in the bundle, because {others[:1]} is tied to it.")
            for other in others:
                place, _, name = other.partition(":")
                if place == file and name in found:
                    raise BundleError(f"The tensor {other!r} must not be stored, because it is tied to {first!r}.")
                if place == file:
                    found[name] = held[source][key]
        return found


def snapshot(states: Mapping[str, Mapping[str, Tensor]], *, of: Collection[str] | None = None) -> TensorSet:
    """Copy tensors to the CPU, so that whoever trains on cannot change what is saved.

    Args:
        states: File to state dict. Tensors that are one in memory are copied once and noted as tied.
        of: The files whose tensors are copied; None for all. Those of others are left as the model has them.

    Raises:
        BundleError: As :func:`survey` does.
    """
    found = survey(states)
    copied = {
        file: {key: _copy(tensor) for key, tensor in held.items()} if of is None or file in of else held
        for file, held in found.files.items()
    }
    return replace(found, files=copied)


def survey(states: Mapping[str, Mapping[str, Tensor]]) -> TensorSet:
    """Find which tensors are one and how they lie in memory, and copy none.

    Args:
        states: File to state dict.

    Raises:
        BundleError: If a tensor cannot be kept as it is: sparse, quantised, of a subclass, on the meta device, of a
            dtype that safetensors lacks, sharing a part of its memory with another, or unusably named.
    """
    if sum(map(len, states.values())) > MOST_TENSORS:
        raise BundleError(f"A bundle holds {MOST_TENSORS} tensors at the most; the model has more.")
    files: dict[str, dict[str, Tensor]] = {file: {} for file in states}
    groups: dict[object, list[str]] = {}
    laid: dict[str, list[str]] = {}
    spans: dict[int, list[tuple[int, int, str]]] = {}
    for file, state in states.items():
        for key, tensor in state.items():
            name = f"{file}:{check_name(key, file)}"
            check_tensor(name, tensor)
            if (laying := _memory_format(tensor)) is not None:
                laid.setdefault(laying, []).append(name)
            group = groups.setdefault(_identity(name, tensor), [])
            group.append(name)
            if len(group) == 1:
                if tensor.numel():
                    spans.setdefault(tensor.untyped_storage().data_ptr(), []).append((*_span(tensor), name))
                files[file][key] = tensor.detach()
    _check_apart(spans)
    tied = tuple(tuple(group) for group in groups.values() if len(group) > 1)
    return TensorSet(files, tied, {laying: tuple(sorted(names)) for laying, names in laid.items()})


def check_tensor(name: str, tensor: object) -> None:
    """Refuse what a safetensors file cannot hold as it is.

    Raises:
        BundleError: If it is no plain dense tensor with data and a dtype of the format.
    """
    if not isinstance(tensor, Tensor):
        raise _refused(name, f"is a {type(tensor).__name__}", "keep it in the head's settings, or as a tensor")
    if tensor.is_nested:
        raise _refused(name, "is a nested tensor", "keep the tensors in it one by one")
    if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.is_quantized:
        raise _refused(name, f"is a {type(tensor).__name__} ({tensor.dtype})", "turn it into a plain tensor first")
    if tensor.layout != torch.strided:
        raise _refused(name, f"is sparse ({tensor.layout})", "call .to_dense() first")
    if tensor.is_meta:
        raise _refused(name, "is on the meta device and has no data", "load its weights first")
    if str(tensor.dtype).removeprefix("torch.") not in _CODES:
        raise _refused(name, f"has the dtype {tensor.dtype}", "convert it to one that safetensors has")


def _refused(name: str, what: str, do: str) -> BundleError:
    return BundleError(f"The tensor {name!r} cannot be saved: it {what}; {do}.")


def _copy(tensor: Tensor) -> Tensor:
    plain = tensor.detach().resolve_conj().resolve_neg()
    return plain.to("cpu", copy=True, memory_format=torch.contiguous_format)


def _identity(name: str, tensor: Tensor) -> object:
    """Give a key that two names share if they are one tensor in memory."""
    if tensor.numel() == 0:
        return name
    storage = (tensor.device, tensor.untyped_storage().data_ptr(), tensor.storage_offset())
    return (*storage, tensor.dtype, tensor.shape, tensor.stride(), tensor.is_conj(), tensor.is_neg())


def _span(tensor: Tensor) -> tuple[int, int]:
    start = int(tensor.storage_offset()) * tensor.element_size()
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return start, start + (int(reach) + 1) * tensor.element_size()


def _check_apart(spans: Mapping[int, list[tuple[int, int, str]]]) -> None:
    """Refuse tensors that share a part of their memory: what is one in training would be two after loading."""
    for views in spans.values():
        views.sort()
        for (_, stop, one), (start, _, other) in pairwise(views):
            if start < stop:
                raise _refused(other, f"shares a part of its memory with {one!r}", "give it its own with .clone()")


def _memory_format(tensor: Tensor) -> str | None:
    """Name the layout that a tensor's strides say, where it is not the plain one."""
    if tensor.ndim not in (4, 5) or tensor.stride() == _plain_strides(tensor.shape):
        return None
    for laying, memory_format in FORMATS.items():
        if tensor.ndim == (4 if laying == "channels_last" else 5) and tensor.numel():
            empty = torch.empty(tensor.shape, dtype=torch.int8, device="meta")
            if tensor.stride() == empty.to(memory_format=memory_format).stride() != empty.stride():
                return laying
    return None


def _plain_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Give the strides of a tensor whose elements follow one another."""
    return tuple(accumulate(shape[:0:-1], mul, initial=1))[::-1]


def with_layout(tensor: Tensor, laying: str) -> Tensor:
    """Copy a tensor into the memory layout of a name in ``FORMATS``."""
    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device, memory_format=FORMATS[laying])
    return empty.copy_(tensor)


def dense(tensor: Tensor) -> Tensor:
    """Give a tensor as a file holds it, contiguous and on the CPU; one that is so already is not copied."""
    return tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()


def layout(tensors: Mapping[str, Tensor]) -> tuple[bytes, list[str]]:
    """Give the beginning of a safetensors file, and the names in the order in which the tensors' bytes follow.

    Args:
        tensors: Name to tensor. The widest elements come first, so that all are aligned.
    """
    ordered = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in ordered:
        tensor = tensors[name]
        header[name] = {
            "dtype": _CODES[str(tensor.dtype).removeprefix("torch.")],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, ordered


def pieces(tensors: Mapping[str, Tensor]) -> list[memoryview]:
    """Give the bytes of a safetensors file without a copy: its header, then each tensor's own memory.

    Args:
        tensors: Name to contiguous tensor on the CPU.
    """
    header, ordered = layout(tensors)
    return [memoryview(header), *(flat_bytes(tensors[name]) for name in ordered)]


def flat_bytes(tensor: Tensor) -> memoryview:
    """Give the memory of a contiguous tensor on the CPU, in the order of its elements."""
    dense = tensor.detach()
    flat = dense.as_strided((dense.numel(),), (1,))  # a dimension of size 1 may have any stride and is contiguous
    array: Any = flat.view(torch.uint8).numpy()
    return memoryview(array)


def encode(tensors: Mapping[str, Tensor]) -> bytes:
    """Give the bytes of a safetensors file."""
    return b"".join(pieces(tensors))
