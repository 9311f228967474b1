"""timm's evaluation transform as data."""

from __future__ import annotations

import math
from typing import Any

import timm
from torch import nn

from zoo.preprocessing import Preprocessing

__all__ = ["as_preprocessing", "read_preprocessing"]


def read_preprocessing(native: nn.Module, channels: int, size: tuple[int, int]) -> Preprocessing:
    """Say the transform that ``timm.data.create_transform`` makes for a model.

    Args:
        native: timm's model, whose configuration is read.
        channels: Channels that it takes; each gets the mean of the statistics where timm has another number of them.
        size: Height and width that it takes, in pixels.
    """
    return as_preprocessing(timm.data.resolve_data_config({}, model=native), size).with_channels(channels)


def as_preprocessing(config: dict[str, Any], size: tuple[int, int]) -> Preprocessing:
    """Say what timm does with a data configuration; the tensors are bit-equal to its own.

    Args:
        config: What ``timm.data.resolve_data_config`` gives.
        size: Height and width that come out, in pixels.
    """
    mean, std = tuple(config["mean"]), tuple(config["std"])
    height, width = (math.floor(side / config["crop_pct"]) for side in size)
    said: dict[str, Any] = {"resize": (height, width)}  # crop_mode squash: both sides, whatever the shape
    if config["crop_mode"] == "border":
        said |= {"fit": "contain", "fill": tuple(round(255 * level) for level in mean)}
    elif config["crop_mode"] != "squash":
        said = {"resize": (height,)} if height == width else {**said, "fit": "cover"}
    return Preprocessing(
        size=size, interpolation=config["interpolation"], mean=mean, std=std, channels=len(mean), **said
    )
