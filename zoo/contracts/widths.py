"""Pruned widths as data: how the layers of a module differ from those that its library builds.

A pruned module is the library's with some layers narrower. What differs is a few whole numbers a layer, and with them a
freshly built module is brought to the pruned shapes, without the weights it was pruned from and without the library
that pruned it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError, nearest
from zoo.spec import BackboneSpec

__all__ = ["Widths", "as_narrow", "reshape", "widths_of"]

Widths = Mapping[str, Mapping[str, int]]
"""Path of a layer to its sizes that differ, by the name of the attribute, such as ``out_channels`` or ``gamma``."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Kind:
    """What of one kind of layer has widths.

    Args:
        sizes: The attributes that are sizes; a tensor's is its length.
        shape: Gives the shape of a tensor from the sizes and the shape it has; the tensors are the layer's own.
        fault: Says what is wrong with sizes that do not go together; None if nothing.
    """

    sizes: tuple[str, ...]
    shape: Callable[[Mapping[str, int], Shape], Shape]
    fault: Callable[[nn.Module, Mapping[str, int]], str | None] = lambda _, __: None


def _conv_shape(sizes: Mapping[str, int], old: Shape) -> Shape:
    outer = sizes["out_channels"]
    return (outer,) if len(old) == 1 else (outer, sizes["in_channels"] // sizes["groups"], *old[2:])


def _conv_fault(_: nn.Module, sizes: Mapping[str, int]) -> str | None:
    whole = sizes["in_channels"] % sizes["groups"] == 0 and sizes["out_channels"] % sizes["groups"] == 0
    return None if whole else f"its channels must be a multiple of its {sizes['groups']} groups"


def _linear_shape(sizes: Mapping[str, int], old: Shape) -> Shape:
    return (sizes["out_features"],) if len(old) == 1 else (sizes["out_features"], sizes["in_features"])


def _group_norm_fault(_: nn.Module, sizes: Mapping[str, int]) -> str | None:
    whole = sizes["num_channels"] % sizes["num_groups"] == 0
    return None if whole else f"its channels must be a multiple of its {sizes['num_groups']} groups"


def _attention_fault(layer: nn.Module, sizes: Mapping[str, int]) -> str | None:
    """Check attention that holds its number of heads: its layers must have that many, of the width that they had."""
    held: Any = layer
    width = held.head_dim
    if sizes["attn_dim"] != sizes["num_heads"] * width:
        return f"attn_dim must be {sizes['num_heads']} heads of {width}"
    return None


# Of a layer, the first that fits; a number alone is (n,) in every tensor of it that is not a scalar.
_PLAIN: Callable[[Mapping[str, int], Shape], Shape] = lambda sizes, old: (next(iter(sizes.values())),) if old else old  # noqa: E731
_KINDS: tuple[tuple[type[nn.Module] | tuple[type[nn.Module], ...], _Kind], ...] = (
    (
        (nn.Conv1d, nn.Conv2d, nn.Conv3d),
        _Kind(("in_channels", "out_channels", "groups"), _conv_shape, _conv_fault),
    ),
    (nn.Linear, _Kind(("in_features", "out_features"), _linear_shape)),
    (nn.modules.batchnorm._NormBase, _Kind(("num_features",), _PLAIN)),
    (
        nn.GroupNorm,
        _Kind(("num_channels", "num_groups"), lambda s, old: (s["num_channels"],) if old else old, _group_norm_fault),
    ),
    (nn.LayerNorm, _Kind(("normalized_shape",), _PLAIN)),
)
_ATTENTION = _Kind(("num_heads", "attn_dim"), lambda _, old: old, _attention_fault)


def _kind_of(layer: nn.Module) -> _Kind | None:
    """Give what has widths in a layer; None for one that has none."""
    for types, kind in _KINDS:
        if isinstance(layer, types):
            return kind if not isinstance(layer, nn.LayerNorm) or len(layer.normalized_shape) == 1 else None
    if all(type(getattr(layer, name, None)) is int for name in (*_ATTENTION.sizes, "head_dim")):
        return _ATTENTION
    scales = tuple(
        name for name, one in layer._parameters.items() if one is not None and one.numel() == max(one.shape, default=0)
    )
    return _Kind(scales, lambda _, old: old) if scales else None


def _sizes(layer: nn.Module, kind: _Kind) -> dict[str, int]:
    return {name: _length(getattr(layer, name)) for name in kind.sizes}


def _length(size: int | tuple[int, ...] | Tensor) -> int:
    if isinstance(size, Tensor):
        return size.numel()
    return size[0] if isinstance(size, tuple) else size


def widths_of(pruned: nn.Module, whole: nn.Module) -> dict[str, dict[str, int]]:
    """Say how a pruned module differs from the one that its library builds.

    Args:
        pruned: The narrower module; what was cut off from it is passed over.
        whole: The same module as it is built, on any device, the meta device too.

    Returns:
        Path to the sizes that differ; :func:`reshape` brings ``whole`` to the shapes of ``pruned`` with it.

    Example:
        >>> wide, narrow = (nn.Sequential(nn.Linear(4, n), nn.Linear(n, 2)) for n in (8, 3))
        >>> widths_of(narrow, wide)
        {'0': {'out_features': 3}, '1': {'in_features': 3}}
    """
    layers = dict(whole.named_modules())
    found = {}
    for path, layer in pruned.named_modules():
        other = layers.get(path)
        kind = _kind_of(layer)
        if other is None or kind is None or type(other) is not type(layer):
            continue
        before = _sizes(other, kind)
        changed = {name: value for name, value in _sizes(layer, kind).items() if value != before[name]}
        if changed:
            found[path] = changed
    return found


def reshape(module: nn.Module, widths: Widths, *, where: str) -> None:
    """Bring a module to pruned widths, in place: of each tensor the first rows and columns stay.

    All widths are checked before anything is changed; they may come from a stranger's bundle. As no layer becomes wider
    than it is, nothing takes more memory than the module did.

    Args:
        module: The library's module, whole or cut.
        widths: As :func:`widths_of` gave them; nothing is changed where they are empty.
        where: Whose they are, for the message.

    Raises:
        ConfigError: If they name a layer or a size that the module does not have, or a size that is not from 1 to what
            the layer has, or sizes do not go together.
    """
    layers = dict(module.named_modules())
    planned: list[tuple[nn.Module, Mapping[str, int], dict[str, Shape]]] = []
    for path, given in widths.items():
        layer = layers.get(path)
        if layer is None:
            near = ", ".join(nearest(path, layers)) or "none like it"
            raise ConfigError(f"{where}: the widths name the layer {path[:80]!r}, which is not there; there is {near}.")
        planned.append((layer, given, _shapes(layer, given, path, where)))
    for layer, given, shapes in planned:
        _narrow(layer, given, shapes)


def _shapes(layer: nn.Module, given: Mapping[str, int], path: str, where: str) -> dict[str, Shape]:
    """Give the new shapes of a layer's own tensors, having checked its sizes."""
    kind = _kind_of(layer)
    if kind is None:
        raise ConfigError(f"{where}: {path!r} is a {type(layer).__name__}, whose widths cannot be changed.")
    own = _sizes(layer, kind)
    for name, value in given.items():
        if name not in own:
            raise ConfigError(f"{where}: {path!r} has no size {name[:40]!r}; its sizes are {', '.join(own)}.")
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= own[name]:
            raise ConfigError(
                f"{where}: {name} of {path!r} must be a whole number from 1 to {own[name]}, got {str(value)[:40]}."
            )
    sizes = {**own, **given}
    if (fault := kind.fault(layer, sizes)) is not None:
        raise ConfigError(f"{where}: the widths of {path!r} do not go together: {fault}.")
    shapes = {}
    for name, tensor in _tensors(layer).items():
        old = tuple(tensor.shape)
        # A scale of channels, such as a block's own gamma: of one length, with any number of ones around it.
        new = tuple(min(one, sizes[name]) for one in old) if name in sizes else kind.shape(sizes, old)
        shapes[name] = new
        if len(new) != len(old) or any(ours > theirs for ours, theirs in zip(new, old, strict=True)):
            raise ConfigError(f"{where}: with its widths {path}.{name} would be {new}, and it is {old}.")
    return shapes


def _tensors(layer: nn.Module) -> dict[str, Tensor]:
    held = {**layer._parameters, **layer._buffers}
    return {name: tensor for name, tensor in held.items() if tensor is not None}


def _narrow(layer: nn.Module, given: Mapping[str, int], shapes: Mapping[str, Shape]) -> None:
    for name, value in given.items():
        if name not in shapes:
            setattr(layer, name, (value,) if name == "normalized_shape" else value)
    for name, tensor in _tensors(layer).items():
        if tuple(tensor.shape) == shapes[name]:
            continue
        with torch.no_grad():
            left = tensor.detach()[tuple(slice(0, size) for size in shapes[name])].clone()
        if isinstance(tensor, nn.Parameter):
            setattr(layer, name, nn.Parameter(left, requires_grad=tensor.requires_grad))
        else:
            layer._buffers[name] = left


def as_narrow(asked: BackboneSpec, begun: BackboneSpec) -> BackboneSpec:
    """Give a backbone the pruned widths, and the rounding, of the one whose weights it is to have."""
    if not (begun.widths or begun.quantized) or begun.architecture != asked.architecture:
        return asked
    return replace(
        asked,
        quantized=begun.quantized,
        widths=begun.widths,
        pooled_dim=begun.pooled_dim,
        token_dim=begun.token_dim,
        stages=begun.stages,
        parameters=begun.parameters,
    )
