"""Pictures as rows of patches with their grids, as the vision towers of language models take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo_huggingface.rules import Rule
from zoo_huggingface.rules.packing import Packing

__all__ = ["merge_of", "packed", "patch_of", "to_rows"]


def packed(rule: Rule, config: Any, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Cut pictures into patches, and give them with their grids, as the rule's packing says."""
    packing, image = rule.packing, inputs["image"]
    assert packing is not None
    patch, merge = patch_of(packing, config), merge_of(packing, config)
    grid = (image.shape[-2] // patch, image.shape[-1] // patch)
    arguments: dict[str, Any] = {packing.argument: _patches(packing, config, image, patch, merge)}
    for name, what in packing.extra:
        arguments[name] = _EXTRAS[what](packing, image, grid, merge)
    return arguments


def patch_of(packing: Packing, config: Any) -> int:
    """Give the side of a patch, in pixels."""
    size = getattr(config, packing.patch) if isinstance(packing.patch, str) else packing.patch
    return int(size if isinstance(size, int) else size[-1])


def merge_of(packing: Packing, config: Any) -> int:
    """Give the number of patches of a block's side."""
    merge = getattr(config, packing.merge) if isinstance(packing.merge, str) else packing.merge
    return int(merge if isinstance(merge, int) else merge[-1])


def _patches(packing: Packing, config: Any, image: Tensor, patch: int, merge: int) -> Tensor:
    batch, channels, height, width = image.shape
    time = getattr(config, packing.time, 1) if isinstance(packing.time, str) else packing.time
    down, across = height // (patch * merge), width // (patch * merge)
    cut = image.reshape(batch, channels, down, merge, patch, across, merge, patch)
    letters = "bcyiuxjv"
    if "t" in packing.values:
        cut = cut.unsqueeze(-1).expand(*cut.shape, int(time))
        letters += "t"
    if packing.shape == "block":
        ordered = cut.permute([letters.index(letter) for letter in "byxiujvc"])
        return ordered.reshape(batch * down * across, merge * patch, merge * patch, channels)
    if packing.shape == "strip":
        ordered = cut.permute([letters.index(letter) for letter in "cu" + "b" + packing.order + "v"])
        return ordered.reshape(1, channels, patch, -1)
    ordered = cut.permute([letters.index(letter) for letter in "b" + packing.order + packing.values])
    rows = (batch, -1) if packing.batched else (batch * down * across * merge * merge,)
    inner = ordered.shape[5:] if packing.shape == "patch" else (ordered.shape[5:].numel(),)
    flat = ordered.reshape(*rows, *inner)
    if packing.shape == "numbered":
        places = _positions(packing, image, (down * merge, across * merge), merge).flip(-1) + 1
        return torch.cat([places.to(flat.dtype), flat], -1)
    return flat


def _grid(packing: Packing, image: Tensor, grid: tuple[int, int], merge: int) -> Tensor:
    """Give frames, height and width in patches, of each picture; on the CPU, where transformers reads them."""
    return torch.tensor([[1, *grid]] * len(image), device="cpu")


def _block_grid(packing: Packing, image: Tensor, grid: tuple[int, int], merge: int) -> Tensor:
    return torch.tensor([[1, grid[0] // merge, grid[1] // merge]] * len(image), device="cpu")


def _sides(packing: Packing, image: Tensor, grid: tuple[int, int], merge: int) -> Tensor:
    """Give height and width in patches, of each picture."""
    return torch.tensor([grid] * len(image), device="cpu")


def _merges(packing: Packing, image: Tensor, grid: tuple[int, int], merge: int) -> Tensor:
    return torch.tensor([merge] * len(image), device="cpu")


def _mask(packing: Packing, image: Tensor, grid: tuple[int, int], merge: int) -> Tensor:
    """Say that every patch is real."""
    return torch.ones(len(image), grid[0] * grid[1], dtype=torch.int64, device=image.device)


def _positions(packing: Packing, image: Tensor, grid: tuple[int, int], merge: int) -> Tensor:
    """Give column and row of every patch, row by row, ``(B, N, 2)``."""
    down = torch.arange(grid[0], device=image.device)
    across = torch.arange(grid[1], device=image.device)
    rows, columns = torch.meshgrid(down, across, indexing="ij")
    return torch.stack([columns.flatten(), rows.flatten()], -1).expand(len(image), -1, 2)


_EXTRAS: dict[str, Callable[[Packing, Tensor, tuple[int, int], int], Tensor]] = {
    "grid": _grid,
    "grid of blocks": _block_grid,
    "mask": _mask,
    "merges": _merges,
    "positions": _positions,
    "sides": _sides,
}


def to_rows(
    packing: Packing, config: Any, state: Tensor, batch: int, grid: tuple[int, int], *, inside: bool
) -> tuple[Tensor, tuple[int, int]]:
    """Put the tokens of a packed batch in order, row by row.

    Args:
        packing: How they were packed.
        config: transformers' config.
        state: ``(B N, D)``, ``(1, B N, D)`` or ``(B, N, D)``.
        batch: Number of pictures.
        grid: Height and width of a picture, in patches.
        inside: Whether it comes from a block, in which the order may be that of the windows.

    Returns:
        ``(B, P + N, D)``, class tokens first, and the height and width of its grid.
    """
    rows = state.reshape(batch, -1, state.shape[-1])
    head, rows = rows[:, : packing.prefix], rows[:, packing.prefix :]
    merge = merge_of(packing, config)
    height, width = grid
    side = height * width // rows.shape[1]
    if side > 1:  # merged already: the blocks themselves stand row by row
        factor = next(n for n in range(1, side + 1) if n * n >= side)
        grid = (height // factor, width // factor)
        return torch.cat([head, rows], 1) if packing.prefix else rows, grid
    if inside and packing.windowed:
        block = merge if packing.order == "yxij" else 1  # what a window is made of
        order = _windows(packing, config, grid, block).to(rows.device)
        rows = rows.unflatten(1, (-1, block * block))[:, order].flatten(1, 2)
    if packing.order == "yxij" and merge > 1:
        blocks = rows.unflatten(1, (height // merge, width // merge, merge, merge))
        rows = blocks.transpose(2, 3).flatten(1, 4)
    return torch.cat([head, rows], 1) if packing.prefix else rows, grid


def _windows(packing: Packing, config: Any, grid: tuple[int, int], merge: int) -> Tensor:
    """Say where each block of a picture stands among the windows, row by row.

    A window is a square of blocks; the blocks of a window stand together, row by row, and so do the windows.
    """
    side = 1
    for name in packing.windowed:
        side *= int(getattr(config, name))
    side //= merge * patch_of(packing, config)
    down, across = grid[0] // merge, grid[1] // merge
    padded = (0, -across % side, 0, -down % side)
    index = F.pad(torch.arange(down * across).reshape(down, across), padded, value=-1)
    index = index.unflatten(1, (-1, side)).unflatten(0, (-1, side)).transpose(1, 2).flatten()
    return torch.argsort(index[index >= 0])
