"""The image processors of transformers that scale a picture to a number of pixels, each with its rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zoo.preprocessing.geometry import Fit
from zoo_huggingface.whole import Unsayable, class_name

__all__ = ["COUNTING", "Counted", "counting"]


@dataclass(frozen=True, slots=True)
class Counted:
    """How many pixels a processor scales to.

    Args:
        fit: The rule.
        pixels: The rule's numbers of pixels; None where nothing is scaled.
        multiple: What sides are multiples of, in pixels.
    """

    fit: Fit
    pixels: tuple[int, ...] | None
    multiple: int


def counting(processor: Any) -> Counted:
    """Say to how many pixels a processor scales.

    Raises:
        Unsayable: If its settings are none that the rule knows.
    """
    fit, multiple, pixels = COUNTING[class_name(processor)]
    return Counted(fit, pixels(processor) if processor.do_resize else None, multiple(processor))


def _refuse(processor: Any, what: object) -> Unsayable:
    return Unsayable(f"{type(processor).__name__} scales to {what}.")


def _block(processor: Any) -> int:
    return int(processor.patch_size * processor.merge_size)


def _edges(processor: Any) -> tuple[int, ...]:
    size = {key: side for key, side in dict(processor.size or {}).items() if side is not None}
    for names in (("shortest_edge", "longest_edge"), ("min_pixels", "max_pixels")):
        if set(size) == set(names):
            return tuple(int(size[name]) for name in names)
    raise _refuse(processor, size)


def _in_frames(processor: Any) -> tuple[int, ...]:
    """Count a picture as the frames of a patch."""
    edges, frames = _edges(processor), processor.temporal_patch_size
    if any(edge % frames for edge in edges):
        raise Unsayable(f"{type(processor).__name__} counts {edges} pixels in {frames} frames.")
    return tuple(edge // frames for edge in edges)


def _tokens(processor: Any) -> tuple[int, ...]:
    side = _lfm2_block(processor) ** 2
    return processor.min_image_tokens * side, processor.max_image_tokens * side


def _lfm2_block(processor: Any) -> int:
    return int(processor.encoder_patch_size * processor.downsample_factor)


def _minicpm(processor: Any) -> tuple[int, ...]:
    if getattr(processor, "small_image_upsize", "always") != "always":
        raise _refuse(processor, f"sizes by small_image_upsize={processor.small_image_upsize!r}")
    return (int(processor.scale_resolution) ** 2,)


_Rule = tuple[Fit, Callable[[Any], int], Callable[[Any], tuple[int, ...]]]
_QWEN: _Rule = ("budget", _block, _edges)
_GLM: _Rule = ("budget_whole", _block, _in_frames)
_GEMMA: _Rule = (
    "budget_down",
    lambda processor: processor.patch_size * processor.pooling_kernel_size,
    lambda processor: (processor.max_soft_tokens * (processor.patch_size * processor.pooling_kernel_size) ** 2,),
)
_MINICPM: _Rule = (
    "budget_area",
    lambda processor: processor.patch_size * (2 if processor.downsample_mode == "4x" else 4),
    _minicpm,
)

COUNTING: Mapping[str, _Rule] = {
    "CohereCompassImageProcessor": _QWEN,
    "Cosmos3EdgeImageProcessor": _GLM,
    "Emu3ImageProcessor": ("budget", lambda processor: int(processor.spatial_factor), _edges),
    "Ernie4_5_VLMoeImageProcessor": _QWEN,
    "Gemma4ImageProcessor": _GEMMA,
    "Gemma4UnifiedImageProcessor": _GEMMA,
    "Glm46VImageProcessor": _GLM,
    "Glm4vImageProcessor": _GLM,
    "GlmgaImageProcessor": _GLM,
    "HunYuanVLImageProcessor": _QWEN,
    "Lfm2VlImageProcessor": ("budget_free", _lfm2_block, _tokens),
    "MiniCPMOcrImageProcessor": _MINICPM,
    "MiniCPMV4_6ImageProcessor": _MINICPM,
    "MiniMaxM3VLImageProcessor": _QWEN,
    "MuseGlimmerImageProcessor": (
        "budget_near",
        _block,
        lambda processor: (processor.max_image_tokens * _block(processor) ** 2,),
    ),
    "PaddleOCRVLImageProcessor": ("budget_raised", _block, _edges),
    "Qwen2VLImageProcessor": _QWEN,
    "Siglip2ImageProcessor": (
        "budget_up",
        lambda processor: int(processor.patch_size),
        lambda processor: (processor.max_num_patches * processor.patch_size**2,),
    ),
    "VideoLlama3ImageProcessor": _QWEN,
}
"""Class to its rule, and how its multiple and its numbers of pixels are read from its settings."""
