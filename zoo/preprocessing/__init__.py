"""Preprocessing as data: how a picture becomes the tensor that a backbone was trained on.

A :class:`Preprocessing` is JSON, stands in the backbone's spec, travels in the bundle, and is applied by one function,
so that training, prediction and every later member of an ensemble see the very tensor that the library's own
transform gives.
"""

from __future__ import annotations

from zoo.preprocessing.arithmetic import as_images
from zoo.preprocessing.modes import mask_pixels, to_mode
from zoo.preprocessing.recipe import Interpolation, Preprocessing, check_ready
from zoo.preprocessing.scaling import can_scale, scaled_piece

__all__ = [
    "Interpolation",
    "Preprocessing",
    "as_images",
    "can_scale",
    "check_ready",
    "mask_pixels",
    "scaled_piece",
    "to_mode",
]
