"""What a module is given for pictures and clips, by kind: each maker turns our inputs into transformers' arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo_huggingface.rules import Rule

__all__ = [
    "clip",
    "picture",
    "picture_as_tile",
    "picture_in_order",
    "picture_with_fine",
    "picture_with_mask",
    "picture_with_size",
]


def picture(rule: Rule, config: Any, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Give a picture as it is."""
    return {rule.argument or "pixel_values": inputs["image"]}


def picture_with_mask(rule: Rule, config: Any, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Give a picture, and say that all of its pixels are real."""
    image = inputs["image"]
    return {"pixel_values": image, "pixel_mask": image.new_ones((len(image), *image.shape[-2:]), dtype=torch.int64)}


def picture_with_size(rule: Rule, config: Any, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Give a picture and its height and width, of each one of the batch."""
    image = inputs["image"]
    size = torch.tensor(image.shape[-2:], device="cpu").expand(len(image), 2)
    return {"pixel_values": image, "image_sizes": size}


def picture_in_order(rule: Rule, config: Any, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Give a picture to a masked autoencoder, whose noise shuffles the tokens: rising noise leaves them in order."""
    image = inputs["image"]
    patch = config.patch_size
    count = (image.shape[-2] // patch) * (image.shape[-1] // patch)
    noise = torch.arange(count, device=image.device, dtype=torch.float32).expand(len(image), count)
    return {"pixel_values": image, "noise": noise}


def picture_with_fine(rule: Rule, config: Any, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Give a picture as one whole tile, none of it fine."""
    image = inputs["image"]
    return {"pixel_values": image, "fine": torch.zeros(len(image), dtype=torch.bool, device=image.device)}


def picture_as_tile(rule: Rule, config: Any, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Give a picture as the first of the tiles that a tower looks at together, the others empty and masked."""
    image, more = inputs["image"], config.max_num_tiles - 1
    number = config.supported_aspect_ratios.index([1, 1]) + 1
    first = torch.ones(len(image), 1, 1, dtype=torch.int64, device=image.device)
    return {
        "pixel_values": F.pad(image[:, None, None], (0, 0, 0, 0, 0, 0, 0, more)),
        "aspect_ratio_ids": first[:, 0] * number,
        "aspect_ratio_mask": F.pad(first, (0, more)),
    }


def clip(rule: Rule, config: Any, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Give a clip, whose frames transformers wants in front of its channels."""
    return {rule.argument or "pixel_values": inputs["video"].transpose(1, 2)}
