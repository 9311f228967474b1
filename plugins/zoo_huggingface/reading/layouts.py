"""From what an inner module gives to a map ``(B, C, H, W)``, by the layout that the rules name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo_huggingface.reading.packed import to_rows
from zoo_huggingface.rules import Rule

__all__ = ["LAYOUTS", "after_of", "first_tensor", "first_tile"]

Layouts = Callable[[Rule, Any, Tensor, int, tuple[int, int], int], Tensor]


def first_tensor(output: Any, pick: int | str = 0) -> Tensor | None:
    """Find the tensor that an output holds: itself, or the first inside its item ``pick``; None if there is none."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict):
        output = output[pick] if isinstance(pick, str) else list(output.values())[pick]
    elif isinstance(output, (tuple, list)) and output:
        output = output[pick if isinstance(pick, int) else 0]
    else:
        return None
    return first_tensor(output)


def after_of(rule: Rule, config: Any) -> int:
    """Give the number of tokens after the grid."""
    return int(getattr(config, rule.after) if rule.after and isinstance(rule.after, str) else rule.after or 0)


def first_tile(config: Any, state: Tensor, batch: int) -> Tensor:
    """Give the tokens of the first tile, ``(B, N, D)``, of a tower that looks at several tiles of a picture at once."""
    return state.reshape(batch, config.max_num_tiles, -1, state.shape[-1])[:, 0]


def _tokens(rule: Rule, native: Any, state: Tensor, batch: int, grid: tuple[int, int], index: int) -> Tensor:
    if state.shape[0] != batch:  # all pictures in one row
        state = state.reshape(batch, -1, state.shape[-1])
    after = after_of(rule, native.config)
    end = state.shape[1] - after
    tokens = state[:, end - grid[0] * grid[1] : end]
    return tokens.transpose(1, 2).unflatten(2, grid)


def _nchw(rule: Rule, native: Any, state: Tensor, batch: int, grid: tuple[int, int], index: int) -> Tensor:
    return state


def _nhwc(rule: Rule, native: Any, state: Tensor, batch: int, grid: tuple[int, int], index: int) -> Tensor:
    return state.permute(0, 3, 1, 2)


def _hiera(rule: Rule, native: Any, state: Tensor, batch: int, grid: tuple[int, int], index: int) -> Tensor:
    """Let Hiera itself undo the order in which it pools."""
    rolled: Tensor = native.encoder.reroll(state, stage_idx=index)
    return rolled.permute(0, 3, 1, 2)


def _windows(rule: Rule, native: Any, state: Tensor, batch: int, grid: tuple[int, int], index: int) -> Tensor:
    """Put the windows of a picture, each of which may have a class token, together again."""
    across = int(getattr(native.config, "num_windows_side", native.config.num_windows))
    height, width = grid[0] // across, grid[1] // across
    tokens = state.reshape(batch * across * across, -1, state.shape[-1])[:, -height * width :]
    cut = tokens.unflatten(1, (height, width)).unflatten(0, (batch, across, across))
    return torch.einsum("byxhwc->bcyhxw", cut).reshape(batch, -1, *grid)


def _packed(rule: Rule, native: Any, state: Tensor, batch: int, grid: tuple[int, int], index: int) -> Tensor:
    packing = rule.packing
    assert packing is not None
    rows, grid = to_rows(packing, native.config, state, batch, grid, inside=True)
    return rows[:, packing.prefix :].transpose(1, 2).unflatten(2, grid)


def _tiles(rule: Rule, native: Any, state: Tensor, batch: int, grid: tuple[int, int], index: int) -> Tensor:
    """Give the patches of the first tile, which stand after its class token and before what fills the row up."""
    tokens = first_tile(native.config, state, batch)[:, 1 : 1 + grid[0] * grid[1]]
    return tokens.transpose(1, 2).unflatten(2, grid)


LAYOUTS: dict[str, Layouts] = {
    "hiera": _hiera,
    "nchw": _nchw,
    "nhwc": _nhwc,
    "packed": _packed,
    "tiles": _tiles,
    "tokens": _tokens,
    "windows": _windows,
}
"""Name to what turns a state into a map: of the rule, the module, the state, the batch's size, the grid and the number
of the stage among those with maps, from 0."""
