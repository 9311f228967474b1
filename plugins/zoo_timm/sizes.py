"""Which picture sizes a timm model takes, by what it is made of and by tables of what was measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

__all__ = ["divisor_of", "least_of", "native_size", "nearest_sizes"]

# Networks of any size. Class -> what heights and widths must be multiples of; 1 for all others.
_DIVISORS = {"CSATv2": 8, "DLA": 32, "HieraDet": 32, "HighResolutionNet": 32, "TResNet": 4}

# Layer -> what the sides of its map must be multiples of: an attribute of the layer, or a number.
_LAYERS: dict[str, str | int] = {"BilinearAttnTransform": "block_size", "HaloAttn": "block_size", "LambdaLayer": 1}

# Class -> the least height and width of networks of any size; 1 for all others.
_LEAST = {
    "CSATv2": 64,
    "ConvNeXt": 32,
    "DenseNet": 29,
    "EdgeNeXt": 32,
    "FasterNet": 32,
    "FocalNet": 32,
    "InceptionResnetV2": 75,
    "InceptionV3": 75,
    "InceptionV4": 75,
    "MetaNeXt": 32,
    "NextViT": 25,
    "PyramidVisionTransformerV2": 29,
    "RDNet": 32,
    "VGG": 32,
    "VovNet": 29,
}

_COARSEST = 32
_TRIALS = 16


def native_size(native: nn.Module) -> tuple[int, int]:
    """Give the height and width that a model was built for, in pixels."""
    model: Any = native
    size = getattr(getattr(native, "patch_embed", None), "img_size", None) or model.pretrained_cfg["input_size"][1:]
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def divisor_of(native: nn.Module) -> int:
    """Give the number that heights and widths must be multiples of, for a model that takes any size."""
    model: Any = getattr(native, "encoder", native)
    embed: Any = getattr(model, "patch_embed", None)
    if type(model).__name__ in _DIVISORS:
        return _DIVISORS[type(model).__name__]
    if hasattr(model, "get_patch_size"):  # patches are laid out in a grid before anything else
        height, width = model.get_patch_size()
        soft = model.pooling_kernel_size if getattr(model, "global_pool", "") == "soft" else 1
        return int(max(height, width) * soft)
    if hasattr(embed, "strict_img_size"):  # any size is taken, padding apart only if it is whole patches
        merged = model.merge_size if getattr(model, "merger", None) is not None else 1
        cell = embed.feat_ratio() if hasattr(embed, "feat_ratio") else max(embed.patch_size)
        return 1 if getattr(embed, "dynamic_img_pad", False) else int(cell * merged)
    blocks = [_block(module) for module in native.modules() if type(module).__name__ in _LAYERS]
    return _COARSEST * max(blocks) if blocks else 1


def _block(layer: nn.Module) -> int:
    side = _LAYERS[type(layer).__name__]
    return side if isinstance(side, int) else int(getattr(layer, side))


def least_of(native: nn.Module) -> int:
    """Give the least height and width of a model that takes any size, in pixels."""
    return _LEAST.get(type(native).__name__, 1)


def nearest_sizes(asked: int, step: int, fits: Callable[[int], bool]) -> list[int]:
    """Find the nearest sizes below and above one that a model does not take, by trial.

    Args:
        asked: What it does not take, in pixels.
        step: What the sizes that are tried are multiples of, in pixels.
        fits: Whether a size is taken.
    """
    below = range(asked // step * step, 0, -step)
    above = range(-(-(asked + 1) // step) * step, asked + step * _TRIALS, step)
    found = (next((size for size in sizes if fits(size)), None) for sizes in (below[:_TRIALS], above))
    return [size for size in found if size is not None]
