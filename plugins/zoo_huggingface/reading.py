"""One forward pass of a transformers module, and how the uniform features are read from what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import ShapeError
from zoo_huggingface.natives import tower_of
from zoo_huggingface.plans import Plan

__all__ = ["Reader", "Reading", "pair"]

# The uniform name of an input, and transformers' own.
_NAMES = {"image": "pixel_values"}


@dataclass(frozen=True, slots=True)
class Reading:
    """What one forward pass gave.

    Args:
        output: transformers' output.
        size: Height and width of the picture, in pixels; None for text.
        mask: ``(B, N)``, bool, True where a token is real; None if all are.
    """

    output: Any
    size: tuple[int, int] | None
    mask: Tensor | None


class Reader:
    """Runs a module by its plan and reads its output.

    Args:
        plan: Which module it is, and how it is pooled.
        native: The module.
    """

    def __init__(self, plan: Plan, native: nn.Module) -> None:
        config: Any = native.config
        self.plan, self.rule = plan, plan.rule
        self.patch = pair(getattr(config, "patch_size", None)) if self.rule.maps == "tokens" else None
        self.size = pair(getattr(config, "image_size", None))

    def run(self, native: nn.Module, inputs: Mapping[str, Tensor], *, hidden: bool) -> Reading:
        """Run the module once.

        Args:
            native: The module.
            inputs: Uniform input name to tensor.
            hidden: Whether the maps of the stages are wanted.
        """
        arguments: dict[str, Any] = {_NAMES.get(name, name): tensor for name, tensor in inputs.items()}
        image = inputs.get("image")
        size = None if image is None else (int(image.shape[-2]), int(image.shape[-1]))
        if self.rule.resize == "flag" and size != self.size:
            arguments["interpolate_pos_encoding"] = True
        tower = tower_of(self.plan, native)
        output = tower(**arguments, **self.rule.call, output_hidden_states=hidden, return_dict=True)
        mask = inputs.get("attention_mask")
        return Reading(output, size, None if mask is None else mask.bool())

    def pool(self, reading: Reading) -> Tensor:
        """Give the pooled vector, ``(B, D)``, by the plan's rule."""
        rule, output = self.plan.pooling, reading.output
        if rule in ("pooler", "eos"):
            return output.pooler_output.flatten(1)
        last: Tensor = output.last_hidden_state
        if rule == "cls":
            return last[:, 0]
        if rule == "last":
            return _last_real(last, reading.mask)
        if last.ndim == 4:
            return last.mean((-2, -1))
        return _masked_mean(last[:, self.prefix(reading) :], reading.mask)

    def embed(self, native: nn.Module, pooled: Tensor) -> Tensor | None:
        """Project the pooled vector into the space that two towers share, at length 1; None for other models."""
        if self.rule.projection is None:
            return None
        projected = native.get_submodule(self.rule.projection)(pooled) if self.rule.projection else pooled
        return F.normalize(projected, dim=-1)

    def grid(self, reading: Reading) -> tuple[int, int] | None:
        """Give height and width of the token grid, in tokens; None where tokens are no grid."""
        if reading.size is None:
            return None
        if self.rule.maps == "reshaped_hidden_states":
            maps = reading.output.reshaped_hidden_states
            return None if maps is None else (int(maps[-1].shape[-2]), int(maps[-1].shape[-1]))
        if self.patch is None:
            return None
        return reading.size[0] // self.patch[0], reading.size[1] // self.patch[1]

    def prefix(self, reading: Reading) -> int:
        """Count the class and register tokens: what the grid leaves over of the sequence."""
        grid = self.grid(reading)
        return 0 if grid is None else int(reading.output.last_hidden_state.shape[1]) - grid[0] * grid[1]

    def maps(self, reading: Reading) -> list[Tensor]:
        """Give all maps as the library holds them, each ``(B, C, H, W)``; empty where it has none."""
        if self.rule.maps is None:
            return []
        states = list(getattr(reading.output, self.rule.maps if self.rule.maps != "tokens" else "hidden_states"))
        return [self.as_map(state, reading) for state in states]

    def as_map(self, state: Tensor, reading: Reading) -> Tensor:
        """Turn one hidden state into a map ``(B, C, H, W)``; a token grid loses its prefix."""
        if self.rule.maps != "tokens":
            return state
        grid = self.grid(reading)
        if grid is None:
            raise ShapeError(f"{self.plan.model_type}: its tokens are no grid.")
        tokens = state[:, state.shape[1] - grid[0] * grid[1] :]
        return tokens.transpose(1, 2).unflatten(2, grid)


def _masked_mean(tokens: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return tokens.mean(1)
    weights = mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)


def _last_real(tokens: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return tokens[:, -1]
    positions = torch.arange(mask.shape[1], device=mask.device)
    index = (mask * positions).argmax(1)
    return tokens[torch.arange(tokens.shape[0], device=tokens.device), index]


def pair(value: Any) -> tuple[int, int] | None:
    """Read a config's size, one number or two; None if it has none."""
    if value is None or isinstance(value, int):
        return None if value is None else (value, value)
    return (int(value[0]), int(value[1])) if len(value) == 2 else None
