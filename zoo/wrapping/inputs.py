"""What a wrapped module takes: from an example, or from a description of the input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

import torch
from torch import Tensor

from zoo.contracts.examples import example_input
from zoo.errors import ConfigError
from zoo.preprocessing import Preprocessing
from zoo.spec import InputSpec
from zoo.strict import check_options

__all__ = ["Given", "read_inputs"]

# rank and whether the values are floats -> kind and usual name
_KINDS: dict[tuple[int, bool], tuple[Any, str]] = {
    (4, True): ("image", "image"),
    (5, True): ("video", "video"),
    (3, True): ("spectrogram", "input_features"),
    (2, True): ("waveform", "input_values"),
    (2, False): ("tokens", "input_ids"),
}
_HOW = "inputs=torch.zeros(1, 3, 224, 224), or inputs={'channels': 3, 'size': (224, 224)}"

Given = Tensor | InputSpec | Mapping[str, Any]


def read_inputs(
    given: Given | None, preprocessing: Preprocessing | None
) -> tuple[tuple[InputSpec, ...], dict[str, Tensor], bool]:
    """Say what a module takes.

    Args:
        given: An example tensor; input name to tensor; an InputSpec, or the fields of one.
        preprocessing: How pictures are prepared; enough where nothing is given.

    Returns:
        The inputs, an example of each with two rows or more, and whether they are passed by name.

    Raises:
        ConfigError: If it cannot be said.
    """
    if given is None and preprocessing is not None:
        given = {"channels": preprocessing.channels, "size": preprocessing.size}
    if given is None:
        raise ConfigError(f"zoo.wrap must see an input once; pass {_HOW}.")
    if isinstance(given, Tensor):
        return (_from_tensor(given, None),), {_from_tensor(given, None).name: _rows(given)}, False
    if isinstance(given, Mapping) and given and all(isinstance(value, Tensor) for value in given.values()):
        entries = tuple(_from_tensor(tensor, name) for name, tensor in given.items())
        return entries, {name: _rows(tensor) for name, tensor in given.items()}, True
    entry = given if isinstance(given, InputSpec) else _from_fields(given)
    if entry.kind in ("image", "video") and (entry.size is None or entry.channels is None):
        raise ConfigError(f"A picture's input must have channels and size, got {entry}; pass {_HOW}.")
    made = example_input(entry, 2, torch.Generator().manual_seed(0), size=entry.size)
    return (entry,), {entry.name: made}, False


def _rows(tensor: Tensor) -> Tensor:
    """Give two rows at the least, so that a module that confuses rows shows."""
    if tensor.shape[0] < 1:
        raise ConfigError(f"An example input must have one row or more, got {tuple(tensor.shape)}.")
    return tensor if tensor.shape[0] > 1 else tensor.expand(2, *tensor.shape[1:])


def _from_tensor(tensor: Tensor, name: str | None) -> InputSpec:
    kind, usual = _KINDS.get((tensor.ndim, tensor.is_floating_point()), (None, ""))
    if kind is None:
        raise ConfigError(
            f"An example input must be a batch of pictures (B, C, H, W), videos (B, C, T, H, W), spectrograms, "
            f"waveforms or token ids (B, N), got {tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}."
        )
    if kind == "tokens" and name is not None and "mask" in name:
        return InputSpec(name=name, kind="mask", rank=2, dtype="int64", required=False)
    picture = kind in ("image", "video")
    return InputSpec(
        name=name or usual,
        kind=kind,
        rank=tensor.ndim,
        channels=int(tensor.shape[1]) if tensor.ndim > 2 else None,
        size=(int(tensor.shape[-2]), int(tensor.shape[-1])) if picture else None,
        length=int(tensor.shape[2]) if kind == "video" else None,
        fixed_length=kind == "video",
        dtype="float32" if tensor.is_floating_point() else "int64",
    )


def _from_fields(given: Any) -> InputSpec:
    if not isinstance(given, Mapping):
        got = type(given).__name__
        raise ConfigError(f"inputs must be a tensor, a dict or a zoo.InputSpec, got {got}; pass {_HOW}.")
    known = {field.name: field.default for field in fields(InputSpec)}
    check_options("zoo.wrap's inputs", given, known)
    usual: dict[str, Any] = {"name": "image", "kind": "image", "rank": 4}
    told = {**usual, **{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}}
    missing = [name for name, default in known.items() if default is MISSING and name not in told]
    if missing:
        raise ConfigError(f"inputs must have {', '.join(missing)}, got {', '.join(given)}.")
    return InputSpec(**told)
