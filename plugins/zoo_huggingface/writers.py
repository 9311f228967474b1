"""From a Preprocessing to the settings of an image processor; whether they give the same is proven elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zoo.preprocessing import Preprocessing
from zoo_huggingface.recipes import INTERPOLATIONS

__all__ = ["written"]

Settings = dict[str, Any]


def written(said: Preprocessing, *, clips: bool = False) -> Settings:
    """Write the settings of the processor that comes nearest to a recipe, as ``preprocessor_config.json`` has them.

    Args:
        said: The recipe.
        clips: Whether the processor is to take clips.
    """
    name, own = next((name, own) for holds, name, own in _WRITERS if holds(said))
    if clips:
        name, own = ("VivitImageProcessor" if said.on == "pil" else "VideoMAEImageProcessor"), _clips
    idle = not any(said.mean) and all(value == 1 for value in said.std)
    resample = {text: number for number, text in INTERPOLATIONS.items()}[said.interpolation]
    return {
        "image_processor_type": name,
        "do_convert_rgb": said.alpha == "white",
        "do_resize": said.resize is not None,
        "resample": resample,
        "do_rescale": True,
        "rescale_factor": said.scale,
        "do_normalize": not idle,
        "image_mean": list(said.mean),
        "image_std": list(said.std),
        **_placing(said),
        **own(said),
    }


def _square(size: tuple[int, ...]) -> Settings:
    return {"height": size[0], "width": size[1]}


def _placing(said: Preprocessing) -> Settings:
    if said.crop == "none":
        return {"do_center_crop": False, "do_pad": False}
    if said.crop == "corner":
        return {"do_center_crop": False, "do_pad": True, "pad_size": _square(said.size)}
    return {"do_center_crop": True, "crop_size": _square(said.size), "do_pad": False}


def _plain(said: Preprocessing) -> Settings:
    if said.resize is None:
        return {"size": _square(said.size)}
    if said.fit == "limit":
        return {"size": {"shortest_edge": said.resize[0], "longest_edge": said.resize[1]}}
    if said.fit == "contain_down":
        return {"size": {"max_height": said.resize[0], "max_width": said.resize[1]}}
    return {"size": {"shortest_edge": said.resize[0]} if len(said.resize) == 1 else _square(said.resize)}


def _clips(said: Preprocessing) -> Settings:
    return {**_plain(said), **({"offset": False} if said.on == "pil" else {})}


def _longest(said: Preprocessing) -> Settings:
    return {"size": {"longest_edge": said.resize[0] if said.resize else said.size[0]}}


def _janus(said: Preprocessing) -> Settings:
    return {"size": _square(said.size), "do_pad": True, "do_center_crop": False}


def _vilt(said: Preprocessing) -> Settings:
    edge = said.resize[0] if said.resize else said.size[0]
    return {"size": {"shortest_edge": edge}, "size_divisor": said.multiple}


def _bridge_tower(said: Preprocessing) -> Settings:
    return {**_vilt(said), "crop_size": {"shortest_edge": said.size[0]}}


def _divided(said: Preprocessing) -> Settings:
    return {**_plain(said), "size_divisor": said.multiple}


def _glpn(said: Preprocessing) -> Settings:
    return {"do_resize": True, "size_divisor": said.multiple}


def _pixtral(said: Preprocessing) -> Settings:
    return {**_longest(said), "patch_size": {"height": said.multiple, "width": said.multiple}}


def _lcnet(said: Preprocessing) -> Settings:
    edge = said.resize[0] if said.resize else said.size[0]
    turned = {"image_mean": list(said.mean[::-1]), "image_std": list(said.std[::-1])}
    return {**turned, "size": {"height": edge, "width": edge}, "resize_short": edge, "size_divisor": said.multiple}


def _tvp(said: Preprocessing) -> Settings:
    turned = {"image_mean": list(said.mean[::-1]), "image_std": list(said.std[::-1])}
    return {**turned, **_longest(said), "do_flip_channel_order": True}


def _flipped(said: Preprocessing) -> Settings:
    return {**_plain(said), "do_flip_channel_order": True}


_WRITERS: tuple[tuple[Callable[[Preprocessing], bool], str, Callable[[Preprocessing], Settings]], ...] = (
    (lambda said: said.fit == "contain_half_up", "SamImageProcessor", _longest),
    (lambda said: said.fit == "contain_factor", "JanusImageProcessor", _janus),
    (lambda said: said.fit == "cover_factor", "PPLCNetImageProcessor", _lcnet),
    (lambda said: said.fit == "within", "PixtralImageProcessor", _pixtral),
    (lambda said: said.fit == "limit_half_up" and said.crop == "none", "ViltImageProcessor", _vilt),
    (lambda said: said.fit == "limit_half_up", "BridgeTowerImageProcessor", _bridge_tower),
    (lambda said: said.fit == "contain_cut", "TvpImageProcessor", _tvp),
    (lambda said: said.order == "BGR", "MobileViTImageProcessor", _flipped),
    (lambda said: said.on == "float" and said.antialias, "DINOv3ViTImageProcessor", _plain),
    (lambda said: said.on == "float" and said.fit == "limit", "RfDetrImageProcessor", _plain),
    (lambda said: said.on == "float", "DepthProImageProcessor", _plain),
    (lambda said: not said.antialias, "PPDocLayoutV2ImageProcessor", _plain),
    (lambda said: said.multiple > 1 and said.resize is None, "GLPNImageProcessor", _glpn),
    (lambda said: said.multiple > 1 and said.snap == "down", "YolosImageProcessor", _plain),
    (lambda said: said.multiple > 1 and said.fit == "limit", "MaskFormerImageProcessor", _divided),
    (lambda said: said.multiple > 1, "TextNetImageProcessor", _divided),
    (lambda said: True, "CLIPImageProcessor", _plain),
)
"""What a recipe has, the class that does it, and the settings that are that class's own; the first that holds."""
