"""A light feature pyramid: maps of several reductions become one of the finest."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.contracts.modules import ModuleMap

__all__ = ["Pyramid", "resized"]


class Pyramid(nn.Module):
    """Top-down pyramid whose levels are smoothed, brought to the finest grid and added.

    With the maps ``x_1 … x_n``, finest first, and ``up`` to the next finer grid by the nearest position,

    - ``l_i = lateral_i(x_i)``, a 1×1 convolution;
    - ``p_n = l_n``, ``p_i = l_i + up(p_{i+1})``;
    - the result is ``Σ_i resize(relu(norm_i(smooth_i(p_i))))``, ``smooth_i`` a 3×3 convolution, ``norm_i`` a group
      norm, ``resize`` bilinear to the finest grid.

    Args:
        channels: Name of a map to its channels, finest first.
        dim: Channels of every level, 1 or more.

    Shape:
        - maps: ``(B, C_i, H_i, W_i)`` by name.
        - returns: ``(B, dim, H_1, W_1)``.

    Source:
        Lin et al., "Feature Pyramid Networks for Object Detection", 2017, arXiv:1612.03144, section 3, and Kirillov et
        al., "Panoptic Feature Pyramid Networks", 2019, arXiv:1901.02446, figure 3. Ours smooths each level once, where
        Kirillov smooths it once for each doubling of its size; the grids need not differ by a factor of 2.
    """

    def __init__(self, channels: Mapping[str, int], dim: int) -> None:
        super().__init__()
        self.lateral = ModuleMap({name: nn.Conv2d(count, dim, 1) for name, count in channels.items()})
        self.smooth = ModuleMap({name: _smoothing(dim) for name in channels})

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Merge the maps."""
        names = list(self.lateral)
        levels: dict[str, Tensor] = {}
        above: Tensor | None = None
        for name in reversed(names):
            level = self.lateral[name](maps[name])
            if above is not None:
                level = level + F.interpolate(above, size=level.shape[-2:], mode="nearest")
            levels[name] = above = level
        size = levels[names[0]].shape[-2:]
        smoothed = [resized(self.smooth[name](levels[name]), (size[0], size[1])) for name in names]
        return torch.stack(smoothed).sum(dim=0)


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring maps ``(B, C, h, w)`` to another height and width, bilinearly, corners not aligned."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def _smoothing(dim: int) -> nn.Sequential:
    """Make a 3×3 convolution with its norm; a group has 4 channels or more, where there are as many."""
    groups = math.gcd(dim, 32)
    while groups > 1 and dim // groups < 4:
        groups //= 2
    return nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1, bias=False), nn.GroupNorm(groups, dim), nn.ReLU())
