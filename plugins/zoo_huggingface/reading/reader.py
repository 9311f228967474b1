"""One forward pass of a transformers module, and how the uniform features are read from what it gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.contracts.features import Features, Want
from zoo.errors import ShapeError
from zoo_huggingface.plans import Plan
from zoo_huggingface.reading.layouts import LAYOUTS, after_of, first_tensor, first_tile
from zoo_huggingface.reading.makers import MAKERS
from zoo_huggingface.reading.packed import to_rows
from zoo_huggingface.reading.recording import recording, run
from zoo_huggingface.reading.sequence import MASK, last_real, masked_mean, token_mask
from zoo_huggingface.rules.sequence import Sequence
from zoo_huggingface.stages import Tap, tower_of

__all__ = ["Reader", "Reading", "pair", "size_of"]


@dataclass(frozen=True, slots=True)
class Reading:
    """What one forward pass gave.

    Args:
        native: The module that gave it.
        output: transformers' output; None where the pass ended before it.
        seen: Module path to what it gave, for the modules that are recorded.
        batch: Number of samples.
        size: Height and width of the picture, in pixels; None for other inputs.
        mask: ``(B, length)``, not 0 where an input token, sample or step is real; None if all are.
    """

    native: nn.Module
    output: Any
    seen: Mapping[str, Any]
    batch: int
    size: tuple[int, int] | None
    mask: Tensor | None


@dataclass(slots=True)
class Reader:
    """Runs a module by its plan and reads its output.

    Args:
        plan: Which module it is, and how it is pooled.
        config: Its config.
        takes: Name of the maker of its arguments.
        taps: Where its stages end.
        sources: ``last`` and ``pooler``, each to the path of the module that gives it, where one does.
    """

    plan: Plan
    config: Any
    takes: str
    taps: Iterable[Tap] = ()
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Look up what every pass needs."""
        self.config = self.plan.view(self.config)
        self.taps = tuple(self.taps)

    def run(self, native: nn.Module, inputs: Mapping[str, Tensor]) -> Reading:
        """Run the module once, as far as anything in it is left.

        Args:
            native: The module.
            inputs: Uniform input name to tensor.
        """
        rule = self.plan.rule
        main = next(iter(inputs.values()))
        size = (int(main.shape[-2]), int(main.shape[-1])) if "image" in inputs or "video" in inputs else None
        arguments = MAKERS[self.takes](rule, self.config, inputs)
        if rule.resize == "flag" and size != self.native_size:
            arguments["interpolate_pos_encoding"] = True
        tower: Any = tower_of(self.plan, native)
        with recording() as seen:
            output = run(tower, {**arguments, **rule.call})
        return Reading(native, output, seen, main.shape[0], size, inputs.get(MASK))

    def read(self, reading: Reading, want: Want) -> Features:
        """Give the wanted features of a pass."""
        features = Features()
        tokens: Tensor | None = None
        if self.takes == "sequence" and (reading.mask is not None):
            tokens = self.last(reading)
            features.mask = self.mask(reading, tokens)
        if want.pooled:
            features.pooled = self.pool(reading, features.mask)
        if want.embed:
            pooled = self.pool(reading, features.mask) if features.pooled is None else features.pooled
            features.embed = self.embed(reading.native, pooled)
        if want.tokens:
            tokens = self.last(reading) if tokens is None else tokens
            prefix = self.prefix(reading, tokens)
            features.grid = self.grid(reading, tokens)
            end = tokens.shape[1] - self.after
            features.tokens = tokens[:, prefix:end]
            features.prefix = tokens[:, :prefix] if prefix else None
        if want.maps:
            maps = {tap.stage: tap for tap in self.taps}
            features.maps = {stage: self.map(reading, maps[stage]) for stage in want.maps}
        return features

    # --- what was read

    @property
    def native_size(self) -> tuple[int, int] | None:
        """Height and width in pixels that the module was made for."""
        return size_of(self.config) or self.plan.rule.size

    @property
    def after(self) -> int:
        """Number of tokens after the grid, which are no part of it."""
        return after_of(self.plan.rule, self.config)

    def value(self, reading: Reading, name: str) -> Tensor:
        """Give the last state or the library's pooled vector, as the library gives it."""
        rule = self.plan.rule
        where = {"last": rule.last, "pooler": rule.pooler}[name]
        if where.startswith("@"):
            found = first_tensor(reading.seen[where[1:]])
        elif reading.output is None:
            found = first_tensor(reading.seen[self.sources[name]])
        else:
            held = reading.output if isinstance(reading.output, Tensor) else reading.output[where]
            found = held if isinstance(held, Tensor) else held[-1]
        if found is None:
            raise ShapeError(f"{self.plan.model_type}: it gave no {where!r}.")
        return found

    def last(self, reading: Reading) -> Tensor:
        """Give the last state: tokens ``(B, N, D)`` row by row, prefix first, or a map ``(B, C, H, W)``."""
        rule, state = self.plan.rule, self.value(reading, "last")
        if rule.packing is not None:
            grid = self.cells(reading, 0)
            return to_rows(rule.packing, self.config, state, reading.batch, grid, inside=rule.state == "packed")[0]
        if rule.state in (None, "tokens", "nchw"):
            packed = state.ndim == 3 and state.shape[0] != reading.batch  # all pictures in one row
            return state.reshape(reading.batch, -1, state.shape[-1]) if packed else state
        if rule.state == "tiles":
            return first_tile(self.config, state, reading.batch)
        return LAYOUTS[rule.state](rule, reading.native, state, reading.batch, (0, 0), 0)

    def pool(self, reading: Reading, mask: Tensor | None) -> Tensor:
        """Give the pooled vector, ``(B, D)``, by the plan's rule."""
        rule = self.plan.pooling
        if rule in ("pooler", "eos"):
            return self.value(reading, "pooler").flatten(1)
        if rule == "merged":
            merged = self.value(reading, "pooler")
            return merged.reshape(reading.batch, -1, merged.shape[-1]).mean(1)
        last = self.last(reading)
        if rule == "cls":
            return last[:, 0]
        if rule == "last":
            return last_real(last, mask)
        if last.ndim == 4:
            return last.mean((-2, -1))
        start, end = self.prefix(reading, last), last.shape[1] - self.after
        return masked_mean(last[:, start:end], mask)

    def mask(self, reading: Reading, tokens: Tensor) -> Tensor | None:
        """Bring the mask to the rate of the tokens, ``(B, N)``, bool; None if all are real."""
        sequence = self.plan.rule.sequence or Sequence()
        tower = tower_of(self.plan, reading.native)
        count = int(tokens.shape[1]) - sequence.prefix
        return token_mask(sequence, tower, self.config, reading.output, reading.mask, count)

    def embed(self, native: nn.Module, pooled: Tensor) -> Tensor | None:
        """Project the pooled vector into the space that two towers share, at length 1; None for other models."""
        projection = self.plan.rule.projection
        if projection is None:
            return None
        projected = native.get_submodule(projection)(pooled) if projection else pooled
        return F.normalize(projected, dim=-1)

    # --- grids and maps

    def strides(self, tap: Tap) -> tuple[int, int] | None:
        """Give what height and width of a stage's tokens are divided by; None where its map is no grid of tokens."""
        grids = self.plan.rule.maps not in (None, "nchw", "nhwc") and tap.stage != "stem"
        return self._strides(tap.number) if grids else None

    def _strides(self, stage: int) -> tuple[int, int] | None:
        rule = self.plan.rule
        tube = getattr(self.config, "tubelet_size", None)
        patch = (rule.stride, rule.stride) if rule.stride else pair(getattr(self.config, "patch_size", None))
        if patch is None and isinstance(tube, (list, tuple)):
            patch = pair(tube[-2:])
        return None if patch is None else (patch[0] * rule.growth**stage, patch[1] * rule.growth**stage)

    def cells(self, reading: Reading, stage: int) -> tuple[int, int]:
        """Give height and width of the grid of tokens of a stage, numbered from 0; zeros where there is none."""
        size, strides = reading.size, self._strides(stage)
        if size is None or strides is None:
            return (0, 0)
        if self.plan.rule.rounding == "ceil":
            return -(-size[0] // strides[0]), -(-size[1] // strides[1])
        return size[0] // strides[0], size[1] // strides[1]

    def grid(self, reading: Reading, tokens: Tensor) -> tuple[int, int] | None:
        """Give height and width of the grid of the last state's tokens; None where they are no grid."""
        rule = self.plan.rule
        if self.takes == "clip" or reading.size is None or tokens.ndim != 3:
            return None
        if rule.packing is not None:
            state, grid = self.value(reading, "last"), self.cells(reading, 0)
            return to_rows(rule.packing, self.config, state, reading.batch, grid, inside=rule.state == "packed")[1]
        if (rule.maps is None and rule.stride is None) or not rule.shrink:
            return None
        stages = sum(tap.source != "" and tap.stage != "stem" for tap in self.taps) if rule.growth > 1 else 1
        height, width = self.cells(reading, stages - 1)
        grid = -(-height // rule.shrink), -(-width // rule.shrink)
        return grid if grid[0] * grid[1] else None

    def prefix(self, reading: Reading, tokens: Tensor) -> int:
        """Count the class and register tokens: what the grid leaves over of the sequence."""
        rule = self.plan.rule
        if self.takes == "sequence":
            return rule.sequence.prefix if rule.sequence is not None else 0
        if self.takes == "clip":
            cells = prod(self.cells(reading, 0))
            return int(tokens.shape[1]) % cells if cells else 0
        grid = self.grid(reading, tokens)
        return 0 if grid is None else int(tokens.shape[1]) - self.after - grid[0] * grid[1]

    def map(self, reading: Reading, tap: Tap) -> Tensor:
        """Give the map of a stage, ``(B, C, H, W)``."""
        rule = self.plan.rule
        state = first_tensor(reading.seen[tap.source], rule.pick if tap.stage != "stem" else 0)
        if state is None or rule.maps is None:
            raise ShapeError(f"{self.plan.model_type}: its stage {tap.stage} gave no tensor.")
        layout = "nchw" if tap.stage == "stem" and state.ndim == 4 else rule.maps
        grid = self.cells(reading, tap.number)
        return LAYOUTS[layout](rule, reading.native, state, reading.batch, grid, tap.number)


def size_of(config: Any) -> tuple[int, int] | None:
    """Give height and width of the pictures that a config was made for, in pixels; None if it does not say."""
    return pair(getattr(config, "image_size", None)) or pair(getattr(config, "crop_size", None))


def pair(value: Any) -> tuple[int, int] | None:
    """Read a config's size, one number or two; None if it has none."""
    if isinstance(value, Mapping) and {"height", "width"} <= set(value):
        return int(value["height"]), int(value["width"])
    if value is None or isinstance(value, int):
        return None if value is None else (value, value)
    return (int(value[0]), int(value[1])) if isinstance(value, (list, tuple)) and len(value) == 2 else None
