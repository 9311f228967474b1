"""Which dimensions of what a part gives are height and width."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from zoo.errors import ConfigError
from zoo.wrapping.backbone import Layout

__all__ = ["Seen", "Sizes", "see"]

Shape = tuple[int, ...]
MOST_PREFIX = 16
"""Class and register tokens that are thought of, at the most, where only one picture size can be tried."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The picture sizes of the dry runs.

    Args:
        first: Height and width, in pixels.
        other: A second size, twice as high; None if the module takes the first only.
    """

    first: tuple[int, int]
    other: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Seen:
    """What a part gives, read as a map.

    Args:
        layout: Which dimensions are height and width.
        channels: Width of a cell.
        grid: Height and width in cells.
        reduction: Picture size divided by grid size.
        prefix: Tokens in front of the grid.
    """

    layout: Layout
    channels: int
    grid: tuple[int, int]
    reduction: float
    prefix: int = 0


def see(
    what: str,
    sizes: Sizes,
    shape: Shape,
    other: Shape | None,
    *,
    layout: Layout | None = None,
    prefix: int | None = None,
    grids: Collection[tuple[int, int]] = (),
) -> Seen | None:
    """Read a shape as a map.

    Two dry runs with pictures of different heights tell the dimensions apart. With one, a dimension must fit.

    Args:
        what: What gave it, for the message.
        sizes: The picture sizes of the dry runs.
        shape: What it gave in the first run, the batch included.
        other: What it gave in the second; None if there was none.
        layout: The layout that the user said.
        prefix: The number of prefix tokens that the user said.
        grids: Grids that other parts gave as maps, such as a patch embedding; tokens that fill one of them are clear.

    Returns:
        The map; None if it is none, such as what global pooling leaves.

    Raises:
        ConfigError: If it can be read in two ways.
    """
    found = [seen for seen in _readings(sizes, shape, other, prefix) if layout is None or seen.layout == layout]
    if len(found) > 1 and len(clear := [seen for seen in found if seen.grid in grids]) == 1:
        found = clear
    if len(found) < 2:
        return found[0] if found else None
    if found[0].layout == "tokens":
        ways = ", ".join(str(seen.prefix) for seen in found)
        raise ConfigError(f"{what} gives {shape}, with {ways} prefix tokens; pass prefix_tokens=… to say how many.")
    raise ConfigError(f"{what} gives {shape}, which may be NCHW or NHWC; pass layout='NCHW' or layout='NHWC'.")


def _readings(sizes: Sizes, shape: Shape, other: Shape | None, prefix: int | None) -> list[Seen]:
    if len(shape) == 3:
        return _tokens(sizes, shape, other, prefix)
    if len(shape) != 4:
        return []
    found: list[Seen] = []
    for layout, (row, column, channel) in _DIMENSIONS.items():
        grid = (shape[row], shape[column])
        if other is not None:
            fits = other[channel] == shape[channel] and other[row] > shape[row]
        else:
            fits = _is_grid(sizes.first, grid)
        if fits:
            found.append(Seen(layout, shape[channel], grid, _reduction(sizes.first, grid)))
    return found


# layout -> the dimensions of height, width and channels
_DIMENSIONS: dict[Layout, tuple[int, int, int]] = {"NCHW": (2, 3, 1), "NHWC": (1, 2, 3)}


def _is_grid(size: tuple[int, int], grid: tuple[int, int]) -> bool:
    """Say whether both sides are the picture's, divided by one number and rounded."""
    if min(grid) < 1 or grid[0] > size[0] or grid[1] > size[1]:
        return False
    return abs(size[1] / (size[0] / grid[0]) - grid[1]) < 1.01


def _reduction(size: tuple[int, int], grid: tuple[int, int]) -> float:
    """Give the power of two of which the grid is a rounding, else what was measured."""
    exact = size[0] / grid[0]
    near = 2 ** round(math.log2(exact)) if exact >= 1 else exact
    whole = all(cells in (int(side / near), -int(-side // near)) for side, cells in zip(size, grid, strict=True))
    return float(near) if whole else round(exact, 4)


def _tokens(sizes: Sizes, shape: Shape, other: Shape | None, prefix: int | None) -> list[Seen]:
    count, channels = shape[1], shape[2]
    if other is not None:
        cells = other[1] - count  # a picture twice as high has twice as many
        counts = [count - cells] if other[2] == channels and 0 < cells <= count else []
    else:
        counts = list(range(MOST_PREFIX + 1)) if prefix is None else [prefix]
    found = []
    for before in counts:
        height, width = sizes.first
        cells = count - before
        reduction = math.sqrt(height * width / cells) if cells > 0 else 0.0
        grid = (round(height / reduction), round(width / reduction)) if reduction >= 1 else (0, 0)
        if grid[0] * grid[1] != cells or not cells:
            continue
        whole = height % grid[0] == 0 and width % grid[1] == 0
        if whole or other is not None:
            found.append(Seen("tokens", channels, grid, round(height / grid[0], 4), before))
    return found
