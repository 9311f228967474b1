"""The one picture in what an image processor of transformers gives, whose tiles and patches are put away.

A vision tower takes one picture. Of a processor that cuts tiles beside the whole picture, the whole one is taken, by
switching the tiles off or by its place among them; patches that are packed for a tower are laid out as the picture
that they were cut from, since our backbones pack it themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from PIL import Image
from torch import Tensor

from zoo.errors import ConfigError
from zoo_huggingface.quiet import quiet
from zoo_huggingface.sources import first_line

__all__ = ["NO_PICTURE", "Unsayable", "Whole", "class_name", "one_picture", "whole_of"]

NO_PICTURE = {
    "EfficientLoFTRImageProcessor": "compares two pictures",
    "FuyuImageProcessor": "cuts a picture into patches for a language model that has no vision tower",
    "ImageGPTImageProcessor": "gives the numbers of colour clusters",
    "InklingImageProcessor": "packs patches for a tower that is not served, without their grid",
    "LightGlueImageProcessor": "compares two pictures",
    "SuperGlueImageProcessor": "compares two pictures",
    "TimmWrapperImageProcessor": "is timm's transform; name the backbone by 'timm:'",
    "VitMatteImageProcessor": "takes a trimap beside the picture",
    "VitPoseImageProcessor": "takes the boxes of persons beside the picture",
}
"""Classes that give no picture for a picture, each with its reason."""

_MAIN = ("pixel_values", "pixel_values_images", "image_pixel_values", "flattened_patches")


class Unsayable(ConfigError):
    """Raised when a processor does what a Preprocessing cannot say, or gives no picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patches:
    """How a processor lays the patches of one picture in a row, in the letters of :class:`Packing`.

    Args:
        order: Order of the patches: ``yxij`` block by block, ``yixj`` row by row.
        values: Order of the numbers in a patch.
        grid: Entry of the output with the number of patches down and across, last in it; or with column and row of each
            patch from 0, ``image_position_ids``; or with row and column of each from 1 in front of its numbers,
            ``flattened_patches``. Empty where the processor's size says it.
        side: Settings of the processor whose product is the side of a patch, in pixels.
        merge: Setting with the patches of a block's side, or that number.
        strip: Whether the patches stand side by side in one picture that is one patch high.
    """

    order: str = "yxij"
    values: str = "ctuv"
    grid: str = "image_grid_thw"
    side: tuple[str, ...] = ("patch_size",)
    merge: str | int = "merge_size"
    strip: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """Where the one picture is in what a processor gives.

    Args:
        switches: Settings with which it is called, so that it gives nothing beside the picture.
        tiles: Whether the picture is the first of several, the tiles after it.
        patches: How it is cut into patches; None where it is not.
        own_ground: Whether it lays transparent pictures over a ground that is not white.
    """

    switches: Mapping[str, Any] = field(default_factory=dict)
    tiles: bool = False
    patches: Patches | None = None
    own_ground: bool = False


_QWEN = Whole(patches=Patches())
_ROWS = Patches(order="yixj", values="uvc", grid="spatial_shapes", merge=1)
_GEMMA = Patches(order="yixj", values="uvc", grid="image_position_ids", merge=1)
_STRIP = Patches(order="yixj", values="cuv", grid="target_sizes", merge=1, strip=True)
_UNMERGED = Patches(order="yixj", values="cuv", merge=1)
_UNSPLIT = Whole(switches={"do_image_splitting": False})
_UNCUT = Whole(switches={"crop_to_patches": False})
_UNREAD = Whole(switches={"apply_ocr": False})
_NUMBERED = Whole(patches=Patches(order="yixj", values="uvc", grid="flattened_patches", merge=1))
_PLAIN = Whole()

_WHOLE: dict[str, Whole] = {
    "Cohere2VisionImageProcessor": _UNCUT,
    "CohereCompassImageProcessor": _QWEN,
    "Cosmos3EdgeImageProcessor": Whole(patches=Patches(values="uvc")),
    "Ernie4_5_VLMoeImageProcessor": _QWEN,
    "Gemma4ImageProcessor": Whole(patches=_GEMMA),
    "Gemma4UnifiedImageProcessor": Whole(
        patches=Patches(
            order="yixj", values="uvc", grid="image_position_ids", merge=1, side=("patch_size", "pooling_kernel_size")
        )
    ),
    "Glm46VImageProcessor": _QWEN,
    "Glm4vImageProcessor": _QWEN,
    "Glm5NextImageProcessor": _QWEN,
    "GlmImageImageProcessor": _QWEN,
    "GlmgaImageProcessor": _QWEN,
    "GraniteDoclingImageProcessor": _UNCUT,
    "HunYuanVLImageProcessor": Whole(patches=Patches(order="yixj")),
    "Idefics2ImageProcessor": _UNSPLIT,
    "Idefics3ImageProcessor": _UNSPLIT,
    "Inkling2ImageProcessor": Whole(
        patches=Patches(order="yixj", values="uvc", side=("size",), merge=1), own_ground=True
    ),
    "Kimi_K25ImageProcessor": Whole(patches=_UNMERGED),
    "Kosmos2_5ImageProcessor": _NUMBERED,
    "LayoutLMv2ImageProcessor": _UNREAD,
    "LayoutLMv3ImageProcessor": _UNREAD,
    "Lfm2VlImageProcessor": Whole(
        switches={"do_image_splitting": False},
        patches=Patches(order="yixj", values="uvc", grid="spatial_shapes", merge=1, side=("encoder_patch_size",)),
    ),
    "Llama4ImageProcessor": Whole(switches={"max_patches": 1}),
    "LlavaNextImageProcessor": Whole(tiles=True),
    "LlavaOnevisionImageProcessor": Whole(tiles=True),
    "MiniCPMOcrImageProcessor": Whole(patches=_STRIP),
    "MiniCPMV4_6ImageProcessor": Whole(patches=_STRIP),
    "MiniMaxM3VLImageProcessor": _QWEN,
    "MllamaImageProcessor": Whole(switches={"max_image_tiles": 1}),
    "Molmo2ImageProcessor": Whole(patches=Patches(order="yixj", values="uvc", grid="", merge=1), tiles=True),
    "MuseGlimmerImageProcessor": Whole(patches=Patches(order="yixj", values="tcuv")),
    "NemotronH_Omni_Reasoning_V3ImageProcessor": Whole(
        patches=Patches(order="yixj", values="cuv", grid="image_grid_hw", merge=1)
    ),
    "NeoMMEImageProcessor": Whole(patches=Patches(order="yixj", values="uvc", grid="image_grid_hw", merge=1)),
    "PaddleOCRVLImageProcessor": Whole(patches=Patches(order="yixj", values="tcuv", merge=1)),
    "PerceptionLMImageProcessor": Whole(switches={"vision_input_type": "vanilla"}),
    "Phi4MultimodalImageProcessor": Whole(tiles=True),
    "Pix2StructImageProcessor": _NUMBERED,
    "Qwen2VLImageProcessor": _QWEN,
    "Siglip2ImageProcessor": Whole(patches=_ROWS),
    "SmolVLMImageProcessor": _UNSPLIT,
    "UltraVBertImageProcessor": _UNSPLIT,
    "VideoLlama3ImageProcessor": _QWEN,
}
"""Class to where its picture is; of the others it is all that they give."""


def class_name(processor: Any) -> str:
    """Name a processor's class, for both its forms alike."""
    return type(processor).__name__.removesuffix("Pil")


def whole_of(processor: Any) -> Whole:
    """Say where a processor's one picture is."""
    return _WHOLE.get(class_name(processor), _PLAIN)


def one_picture(processor: Any, picture: Image.Image) -> Tensor:
    """Give what a processor makes of one picture, ``(C, H, W)``; a clip of one frame counts as a picture.

    Raises:
        Unsayable: If it fails, or gives no single picture; the message names it.
    """
    name, whole = type(processor).__name__, whole_of(processor)
    if class_name(processor) in NO_PICTURE:
        raise Unsayable(f"{name} {NO_PICTURE[class_name(processor)]}.")
    try:
        with quiet():
            found = processor(images=picture, return_tensors="pt", **whole.switches)
    except Exception as error:  # what a processor raises has no common type
        raise Unsayable(f"{name} fails on a picture: {first_line(error)}") from error
    several = isinstance(found, Mapping)
    value = next((found[key] for key in _MAIN if key in found), None) if several else found
    if not isinstance(value, Tensor):
        raise Unsayable(f"{name} gives {', '.join(found)} and no pixel_values.")
    if several and whole.patches is not None:
        value = _laid_out(processor, whole.patches, value, found.get(whole.patches.grid))
    while value.ndim > 3 and (value.shape[0] == 1 or whole.tiles):
        value = value[0]
    if value.ndim != 3 or value.shape[0] not in (1, 3):
        raise Unsayable(f"{name} makes {tuple(value.shape)} of a picture: patches or several cuts, not one picture.")
    return value.float()


def _laid_out(processor: Any, patches: Patches, rows: Tensor, grids: Tensor | None) -> Tensor:
    """Put the patches of the first picture together again, ``(C, H, W)``.

    The frames of a patch are all alike; where that is not so, it comes out as another picture.
    """
    patch = prod(_side(getattr(processor, name)) for name in patches.side)
    merge = _side(getattr(processor, patches.merge)) if isinstance(patches.merge, str) else patches.merge
    if grids is None:
        down, across = (_side(processor.size) // patch,) * 2
    elif patches.grid == "image_position_ids":
        down, across = (int(last) + 1 for last in grids[0].amax(0).flip(0))
    elif patches.grid == "flattened_patches":
        down, across = (int(last) for last in grids[0, :, :2].amax(0))
        rows = rows[..., 2:]
    else:
        down, across = (int(side) for side in grids[0][-2:])
    if patches.strip:
        rows = rows[0].unflatten(-1, (-1, patch)).permute(2, 0, 1, 3)
    flat = (rows[0] if rows.ndim == 3 else rows).flatten(1)
    sizes = {"y": down // merge, "x": across // merge, "i": merge, "j": merge, "c": 3, "t": -1, "u": patch, "v": patch}
    letters = patches.order + patches.values
    cut = flat[: down * across].reshape([sizes[letter] for letter in letters])
    if "t" in letters:
        cut = cut.select(letters.index("t"), 0)
        letters = letters.replace("t", "")
    return cut.permute([letters.index(letter) for letter in "cyiuxjv"]).reshape(3, down * patch, across * patch)


def _side(size: Any) -> int:
    return int(size if isinstance(size, int) else size["height"])
