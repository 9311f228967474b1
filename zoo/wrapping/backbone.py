"""A module that no provider knows, as a backbone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.contracts.backbone import Backbone, StageMap
from zoo.contracts.examples import example_inputs
from zoo.contracts.features import Features, Want
from zoo.errors import CapabilityError, ConfigError, ShapeError, UnknownName
from zoo.spec import BackboneSpec
from zoo.strict import from_json
from zoo.wrapping.taps import Taps

__all__ = ["WRAPPED", "Layout", "Pooling", "Recipe", "WrappedBackbone", "rewrap"]

WRAPPED = "wrapped"
"""What stands in a spec for the provider, where the module comes from the user's own code."""

Layout = Literal["NCHW", "NHWC", "tokens"]
Output = Literal["vector", "NCHW", "NHWC", "tokens"]
Pooling = Literal["output", "mean", "class_token"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a wrapped module is called and read; the ``construction`` of its spec.

    Args:
        code: Where its class is, for a reader; never imported.
        keywords: Whether it takes its inputs by name; by position otherwise.
        output: Layout of what it gives.
        pooling: ``output`` for what it gives as it is, ``mean`` over space or tokens, ``class_token`` for the first.
        layouts: Stage to layout of what the module in which it ends gives, for the stages that have a map.
        reduction: Input size divided by the size of the token grid that it gives; None if it gives none.
        moved: Path to stage, for what runs in another order than it is defined in.
    """

    code: str
    keywords: bool = False
    output: Output = "vector"
    pooling: Pooling = "output"
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    reduction: float | None = None
    moved: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the pooling goes with the output."""
        fitting = {"vector": {"output"}, "tokens": {"mean", "class_token"}}.get(self.output, {"mean"})
        if self.pooling not in fitting:
            raise ConfigError(
                f"pooling must be {' or '.join(sorted(fitting))} for a module that gives {self.output}, "
                f"got {self.pooling!r}."
            )


class WrappedBackbone(Backbone):
    """The user's own module behind the one interface; made by ``zoo.wrap``.

    Nothing is ever cut off it, and its state-dict keys stay as they are.
    """

    def __init__(self, spec: BackboneSpec, native: nn.Module) -> None:
        self._recipe = read_recipe(spec)
        ends = {stage.name: stage.module for stage in spec.stages if stage.module}
        super().__init__(spec, native, StageMap(native, ends, moved=self._recipe.moved))
        self._reductions = {stage.name: stage.reduction or 1.0 for stage in spec.maps}
        self._taps = Taps(native, {name: ends[name] for name in self._recipe.layouts})

    def extract(self, inputs: Mapping[str, Tensor], want: Want) -> Features:
        """Run the module once; taps in it give the maps."""
        call = (lambda: self.native(**inputs)) if self._recipe.keywords else (lambda: self.native(*inputs.values()))
        output, taken = self._taps.run(call, want.maps)
        main = inputs[self.spec.inputs[0].name]
        features = Features(maps={name: self._map(name, map_, main) for name, map_ in taken.items()})
        mask = self._mask(inputs)
        if want.pooled:
            features.pooled = self._pool(output, mask)
        if want.tokens:
            prefix = self.spec.prefix_tokens
            features.tokens = output[:, prefix:]
            features.prefix = output[:, :prefix] if prefix else None
            if self._recipe.reduction is not None:
                features.grid = grid_of(main, self._recipe.reduction, features.tokens)
        if want.tokens or "mask" in self.spec.capabilities:
            features.mask = mask
        return features

    def _mask(self, inputs: Mapping[str, Tensor]) -> Tensor | None:
        name = next((entry.name for entry in self.spec.inputs if entry.kind == "mask"), None)
        return inputs[name].bool() if name and name in inputs and self._recipe.output == "tokens" else None

    def _pool(self, output: Tensor, mask: Tensor | None) -> Tensor:
        recipe = self._recipe
        if recipe.pooling == "output":
            return output
        if recipe.pooling == "class_token":
            return output[:, 0]
        if recipe.output == "tokens":
            tokens = output[:, self.spec.prefix_tokens :]
            if mask is None:
                return tokens.mean(dim=1)
            weight = mask.to(tokens.dtype)[:, :, None]
            return (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
        return output.mean(dim=(2, 3) if recipe.output == "NCHW" else (1, 2))

    def _map(self, stage: str, taken: Tensor | None, main: Tensor) -> Tensor:
        if taken is None:
            raise CapabilityError(
                f"{self.spec.reference}: the module in which {stage} ends did not run; change modules inside a stage, "
                "not the stage itself."
            )
        layout = self._recipe.layouts[stage]
        if layout == "NHWC":
            return taken.permute(0, 3, 1, 2)
        if layout == "NCHW":
            return taken
        tokens = taken[:, self.spec.prefix_tokens :]
        return tokens.transpose(1, 2).unflatten(2, grid_of(main, self._reductions[stage], tokens))

    def fingerprint(self) -> str:
        """Give a digest of what the module does to a fixed input: its code may change where its weights do not."""
        own = next(self.parameters(), torch.zeros(()))
        tensors = {
            name: tensor.to(own.device, own.dtype if tensor.is_floating_point() else tensor.dtype)
            for name, tensor in example_inputs(self.spec, batch=1).items()
        }
        with torch.no_grad():
            pooled = self(tensors).pooled
        assert pooled is not None
        return hashlib.sha256(pooled.float().cpu().numpy().tobytes()).hexdigest()


def grid_of(main: Tensor, reduction: float, tokens: Tensor) -> tuple[int, int]:
    """Give height and width of a token grid.

    Args:
        main: The picture, ``(B, C, H, W)``.
        reduction: Its size divided by the grid's.
        tokens: ``(B, N, D)``, without prefix tokens.

    Raises:
        ShapeError: If the tokens do not fill such a grid.
    """
    height, width = (int(side / reduction + 1e-6) for side in main.shape[-2:])
    if height * width != tokens.shape[1]:
        raise ShapeError(
            f"A picture of {main.shape[-2]}×{main.shape[-1]} pixels gave {tokens.shape[1]} tokens, which are no grid "
            f"of {height}×{width}; give pictures whose height and width are multiples of {reduction:g}."
        )
    return height, width


def read_recipe(spec: BackboneSpec) -> Recipe:
    """Read the recipe of a wrapped module out of its spec, strictly.

    Raises:
        ConfigError: If the spec is of a provider, or its construction is not what ``zoo.wrap`` writes.
    """
    if spec.provider != WRAPPED:
        raise ConfigError(f"{spec.reference} is of the provider {spec.provider!r}; build it by its reference.")
    recipe = from_json(Recipe, dict(spec.construction))
    maps = {stage.name: stage for stage in spec.maps}
    if set(recipe.layouts) != set(maps) or not all(stage.module for stage in maps.values()):
        raise ConfigError(f"{spec.reference}: every stage with a map must have a module and a layout, and no other.")
    return recipe


def rewrap(spec: BackboneSpec, module: nn.Module) -> WrappedBackbone:
    """Put a module behind a spec that ``zoo.wrap`` made of one like it; the module is not run.

    Raises:
        ConfigError: If the spec is none of ``zoo.wrap``, or the module lacks what it names.
    """
    try:
        return WrappedBackbone(spec, module)
    except (AttributeError, UnknownName) as error:
        raise ConfigError(f"{type(module).__name__} does not fit the spec of {spec.reference}: {error}") from error


Recipe.__pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}  # type: ignore[attr-defined]
