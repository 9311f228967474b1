"""Pretrained weights for another number of channels, or another size of pictures, than they were trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.errors import ConfigError
from zoo_huggingface.reading import pair, size_of

__all__ = ["Change", "ADAPTED", "adapt", "adapt_convolution", "changes_between"]

ADAPTED = frozenset({"in_channels", "num_channels", "img_size", "image_size"})
"""Options that make pretrained weights fit another input."""

_TRAINED = 3
"""Channels of the pictures that weights are trained with."""
_BIAS_EXTRA = 3
"""Entries of BEiT's table of relative positions that stand for the class token, after those of the grid."""

Grid = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Change:
    """How one tensor is made to fit.

    Args:
        kind: ``channels``, ``tokens`` (a row of positions), ``map`` (a map of positions, ``(1, H, W, C)``), ``line``
            (relative positions of one axis) or ``bias`` (relative positions of both, with those of a class token).
        shape: Its new shape.
        old: Grid of the published positions.
        new: Grid of the new positions.
    """

    kind: str
    shape: tuple[int, ...]
    old: Grid = (0, 0)
    new: Grid = (0, 0)


def changes_between(
    who: str, published: Mapping[str, Tensor], wanted: Mapping[str, Tensor], before: Any, after: Any
) -> dict[str, Change]:
    """Say how the tensors of a published module become those of the wanted one; no numbers are needed.

    Args:
        who: The reference, for messages.
        published: Key to tensor of the module as it was published.
        wanted: The same of the wanted module.
        before: The published config.
        after: The wanted config.

    Raises:
        ConfigError: If a tensor cannot be made to fit; the message names it.
    """
    grids = (_grid(before), _grid(after))
    found = {}
    for key, tensor in wanted.items():
        if key not in published:
            raise ConfigError(f"{who}: with these options it has a tensor {key!r} that its weights do not have.")
        old, new = tuple(published[key].shape), tuple(tensor.shape)
        if old != new:
            found[key] = _change(who, key, old, new, grids)
    return found


def _grid(config: Any) -> Grid:
    size, patch = size_of(config), pair(getattr(config, "patch_size", None))
    return (0, 0) if size is None or patch is None else (size[0] // patch[0], size[1] // patch[1])


def _change(who: str, key: str, old: tuple[int, ...], new: tuple[int, ...], grids: tuple[Grid, Grid]) -> Change:
    same = [i for i in range(len(new)) if len(old) == len(new) and old[i] == new[i]]
    if len(new) >= 4 and old[1] == _TRAINED and same == [0, *range(2, len(new))]:
        return Change("channels", new)
    (down, across), (down2, across2) = grids
    if len(new) == 4 and same == [0, 3] and old[1:3] == grids[0] and new[1:3] == grids[1]:
        return Change("map", new, *grids)
    if len(new) in (2, 3) and same == [i for i in range(len(new)) if i != len(new) - 2] and down and down2:
        rows, rows2 = old[-2], new[-2]
        before, after = rows - down * across, rows2 - down2 * across2
        if before == after and before >= 0:
            return Change("tokens", new, *grids)
        if (rows, rows2) in (((2 * down - 1), (2 * down2 - 1)), ((2 * across - 1), (2 * across2 - 1))):
            return Change("line", new, *grids)
        if rows == _spread(grids[0]) and rows2 == _spread(grids[1]):
            return Change("bias", new, *grids)
    raise ConfigError(
        f"{who}: its pretrained weights cannot be made to fit these options: {key} has the shape {old}, and {new} is "
        "needed. Leave the options out, or build it with weights=None."
    )


def _spread(grid: Grid) -> int:
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + _BIAS_EXTRA


def adapt(tensor: Tensor, change: Change) -> Tensor:
    """Make one tensor fit.

    Positions are resampled bicubically, as the library itself does at each pass where it can; those of one axis
    linearly. Class and register tokens stay.
    """
    if change.kind == "channels":
        return adapt_convolution(tensor, change.shape[1])
    if change.kind == "map":
        return _resample(tensor.permute(0, 3, 1, 2), change.new).permute(0, 2, 3, 1).contiguous()
    if change.kind == "line":
        line = tensor.float().t().unsqueeze(0)
        return F.interpolate(line, size=change.shape[0], mode="linear").squeeze(0).t().contiguous().to(tensor.dtype)
    if change.kind == "bias":
        old, new = ((2 * h - 1, 2 * w - 1) for h, w in (change.old, change.new))
        count = old[0] * old[1]
        return torch.cat([_rows(tensor[:count].unsqueeze(0), old, new)[0], tensor[count:]])
    rows = tensor if tensor.ndim == 3 else tensor.unsqueeze(0)
    count = rows.shape[1] - change.old[0] * change.old[1]
    fitted = torch.cat([rows[:, :count], _rows(rows[:, count:], change.old, change.new)], 1)
    return fitted if tensor.ndim == 3 else fitted[0]


def _rows(rows: Tensor, old: Grid, new: Grid) -> Tensor:
    grid = rows.transpose(1, 2).unflatten(2, old)
    return _resample(grid, new).flatten(2).transpose(1, 2)


def _resample(grid: Tensor, new: Grid) -> Tensor:
    return F.interpolate(grid.float(), size=new, mode="bicubic", align_corners=False).to(grid.dtype)


def adapt_convolution(weight: Tensor, channels: int) -> Tensor:
    """Make the first convolution, trained on three channels, fit another number of them.

    For one channel its weights are summed, so that a grey picture gives what it gave in three equal channels. For
    others they are repeated in turn and scaled by ``3 / channels``, so that the outputs keep their size.

    Args:
        weight: ``(O, 3, …)``.
        channels: Number of channels, 1 or more.

    Shape:
        - returns: ``(O, channels, …)``, of the same dtype.

    Source:
        timm's rule for ``in_chans``, Ross Wightman, "PyTorch Image Models", 2019.
    """
    if channels == _TRAINED:
        return weight
    full = weight.float()
    if channels == 1:
        return full.sum(1, keepdim=True).to(weight.dtype)
    times = -(-channels // _TRAINED)
    repeated = full.repeat(1, times, *(1 for _ in weight.shape[2:]))[:, :channels]
    return (repeated * (_TRAINED / float(channels))).to(weight.dtype)
