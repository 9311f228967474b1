"""Scaling, placing and normalising: the libraries' own operations, in their own order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from zoo.errors import DataError
from zoo.preprocessing.geometry import scaled_size

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from zoo.preprocessing.recipe import Preprocessing

__all__ = ["as_images", "finished", "fused", "masked", "scaled"]


def scaled(recipe: Preprocessing, images: Sequence[Image.Image]) -> Tensor:
    """Scale pictures of one size, ``(T, C, h, w)``; values are still on the scale of 0 to 255."""
    import torch

    height, width = images[0].height, images[0].width
    if any((image.height, image.width) != (height, width) for image in images):
        raise DataError("The frames of a clip must all have one size; scale or cut them before.")
    target = scaled_size(height, width, recipe.resize, recipe.fit, recipe.multiple, recipe.snap)
    if recipe.on == "pil":
        if target != (height, width):
            from PIL import Image as Pillow

            filter_ = Pillow.Resampling[recipe.interpolation.upper()]
            images = [image.resize((target[1], target[0]), filter_) for image in images]
        return torch.stack([_tensor(image) for image in images])
    pixels = torch.stack([_tensor(image) for image in images])
    if recipe.on == "float":
        pixels = pixels * recipe.scale
    if target == (height, width):
        return pixels
    if target == (1, 1) and pixels.dtype == torch.uint8:  # torch's kernel for bytes fails on a single pixel
        return _one_pixel(recipe, pixels)
    from torchvision.transforms import InterpolationMode

    name = "nearest-exact" if recipe.interpolation == "nearest" else recipe.interpolation
    if recipe.of == "torchvision":  # its presets are of the first version, which scales in floats and rounds
        from torchvision.transforms import functional as classic

        return classic.resize(pixels, list(target), InterpolationMode(name), antialias=recipe.antialias)
    from torchvision.transforms.v2 import functional as F

    return F.resize(pixels, list(target), InterpolationMode(name), antialias=recipe.antialias)


def _one_pixel(recipe: Preprocessing, pixels: Tensor) -> Tensor:
    """Scale bytes to a single pixel, in floats that are rounded; ``(T, C, 1, 1)`` uint8."""
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    name = "nearest-exact" if recipe.interpolation == "nearest" else recipe.interpolation
    made = F.resize(pixels.float(), [1, 1], InterpolationMode(name), antialias=recipe.antialias)
    return made.round().clamp(0, 255).to(torch.uint8)


def finished(recipe: Preprocessing, pixels: Tensor) -> Tensor:
    """Order, place and normalise scaled pixels, ``(T, C, H, W)`` float32."""
    if recipe.order == "BGR":
        pixels = pixels.flip(-3)
    if recipe.fill == "mean":
        return _placed(recipe, _normalised(recipe, _cut(recipe, pixels)), (0,))
    return _normalised(recipe, _placed(recipe, _cut(recipe, pixels), recipe.fill))


def fused(recipe: Preprocessing, image: Image.Image | Tensor) -> Tensor:
    """Normalise a picture of the recipe's size by one multiplication and one addition, ``(C, H, W)`` float32."""
    import torch

    pixels = image if isinstance(image, torch.Tensor) else _tensor(image)
    factor, less = _factors(recipe.mean, recipe.std, recipe.scale)
    made = torch.empty(pixels.shape, dtype=torch.float32).copy_(pixels.flip(0) if recipe.order == "BGR" else pixels)
    return made.mul_(factor).sub_(less)


@lru_cache(maxsize=32)
def _factors(mean: tuple[float, ...], std: tuple[float, ...], scale: float) -> tuple[Tensor, Tensor]:
    """Give ``scale / std`` and ``mean / std``, ``(C, 1, 1)`` float32."""
    import torch

    centre, spread = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (mean, std))
    return (scale / spread).float(), (centre / spread).float()


def masked(recipe: Preprocessing, mask: Tensor, fill: int) -> Tensor:
    """Do to the numbers of a mask, ``(h, w)`` int64, what is done to its picture's pixels; ``(H, W)`` int64.

    Only places move: the nearest pixel is taken, by the rule of the library that scales the picture.
    """
    import numpy as np
    from PIL import Image

    placing = replace(recipe, interpolation="nearest", on="tensor" if recipe.on == "float" else recipe.on)
    pixels = _cut(recipe, scaled(placing, [Image.fromarray(mask.numpy().astype(np.int32))]))
    height, width = pixels.shape[-2:]
    if recipe.crop != "none" and (height, width) != recipe.size:
        pixels = _laid(recipe, pixels, pixels.new_full((1, 1, *recipe.size), fill))
    return pixels[0, 0].long()


def as_images(frames: Tensor, channels: int) -> list[Image.Image]:
    """Make pictures of 8-bit frames, ``(T, C, H, W)``."""
    from PIL import Image

    arrays = frames.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return [Image.fromarray(array[..., 0] if channels == 1 else array) for array in arrays]


def _tensor(image: Image.Image) -> Tensor:
    import numpy as np
    import torch

    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def _half(recipe: Preprocessing, margin: int) -> int:
    """Give the part of a margin that is cut off first; torchvision rounds a half to even, transformers down."""
    return round(margin / 2) if recipe.of == "torchvision" else margin // 2


def _cut(recipe: Preprocessing, pixels: Tensor) -> Tensor:
    """Cut what is larger than the recipe's size, in the middle or at the right and the bottom."""
    if recipe.crop == "none":
        return pixels
    for axis, want in ((-2, recipe.size[0]), (-1, recipe.size[1])):
        margin = pixels.shape[axis] - want
        if margin > 0:
            start = 0 if recipe.crop == "corner" else _half(recipe, margin)
            pixels = pixels.narrow(axis, start, want)
    return pixels


def _placed(recipe: Preprocessing, pixels: Tensor, fill: tuple[float, ...]) -> Tensor:
    """Lay what is smaller than the recipe's size on a ground of one colour."""
    height, width = pixels.shape[-2:]
    if recipe.crop == "none" or (height, width) == recipe.size:
        return pixels
    import torch

    colour = torch.tensor([float(level) for level in fill]).to(pixels.dtype)
    if recipe.on == "float" and recipe.fill != "mean":
        colour = colour * recipe.scale
    ground = colour.expand(recipe.channels)[:, None, None].expand(*pixels.shape[:-2], *recipe.size).clone()
    return _laid(recipe, pixels, ground)


def _laid(recipe: Preprocessing, pixels: Tensor, ground: Tensor) -> Tensor:
    """Lay pixels on a ground of the recipe's size, which is altered."""
    height, width = pixels.shape[-2:]
    top, left = (_lead(recipe, want - have) for want, have in zip(recipe.size, (height, width), strict=True))
    ground[..., top : top + height, left : left + width] = pixels
    return ground


def _lead(recipe: Preprocessing, short: int) -> int:
    """Give the part of a missing margin that comes first; transformers' Pillow processors round its half up."""
    if recipe.crop == "corner":
        return 0
    up = recipe.of == "transformers" and recipe.on == "pil" and recipe.fill == (0,)
    return -(-short // 2) if up else short // 2


def _normalised(recipe: Preprocessing, pixels: Tensor) -> Tensor:
    """Give ``(pixels * scale - mean) / std`` in the order of operations of the library that the recipe is of.

    timm and torchvision divide by 255; transformers' Pillow processors multiply in float64; its tensor processors
    take the factor into mean and deviation. All three are the same in exact numbers, and differ in the last bit.
    """
    import torch

    mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (recipe.mean, recipe.std))
    idle = not any(recipe.mean) and all(value == 1 for value in recipe.std)
    if recipe.on == "float":
        values = pixels.to(torch.float32)
    elif recipe.of == "torchvision":
        whole = recipe.scale == 1 / 255
        values = pixels.to(torch.float32) / 255 if whole else pixels.to(torch.float32) * recipe.scale
    elif recipe.on == "pil":
        values = (pixels.to(torch.float64) * recipe.scale).to(torch.float32)
    elif idle:
        return pixels.to(torch.float32) * recipe.scale
    else:
        factor = 1.0 / recipe.scale
        return (pixels.to(torch.float32) - mean * factor) / (std * factor)
    return values if idle else values.sub_(mean).div_(std)
