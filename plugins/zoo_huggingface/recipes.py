"""What each of transformers' image processors does, as the fields of a Preprocessing.

Most classes follow their flags: scale, cut, pad, rescale, normalise. What a class does beside them stands in
``_SPECIAL``, one small function each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from zoo.preprocessing import Preprocessing
from zoo.preprocessing.geometry import scaled_size
from zoo_huggingface.counting import COUNTING, counting
from zoo_huggingface.whole import NO_PICTURE, Unsayable, class_name, whole_of

__all__ = ["BY_ITSELF", "INTERPOLATIONS", "say"]

INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's number of a filter to our name."""

_UNDERSTOOD = {
    "do_resize", "do_center_crop", "do_pad", "do_rescale", "do_normalize", "do_convert_rgb",
    "do_reduce_labels", "do_convert_annotations",
}  # fmt: skip
BY_ITSELF = {
    "AriaImageProcessor": "keeps a least side of its own when it scales",
    "CHMv2ImageProcessor": "pads a picture to whole patches",
    "DeepseekOcr2ImageProcessor": "pads a picture to a square before it is scaled",
    "DeepseekVLHybridImageProcessor": "gives a second, larger picture",
    "DonutImageProcessor": "makes a thumbnail of a picture before it is padded",
    "Glm5NextImageProcessor": "pads a picture to whole patches",
    "GlmImageImageProcessor": "scales by a rule of its own",
    **dict.fromkeys(
        (
            *("Idefics3ImageProcessor", "Phi4MultimodalImageProcessor", "SmolVLMImageProcessor"),
            "UltraVBertImageProcessor",
        ),
        "scales a picture twice",
    ),
    "Idefics2ImageProcessor": "keeps a least side of its own when it scales",
    "Inkling2ImageProcessor": "pads a picture with a level below black",
    "Kimi_K25ImageProcessor": "pads a picture to whole patches",
    **dict.fromkeys(
        ("Kosmos2_5ImageProcessor", "Pix2StructImageProcessor"), "normalises a picture by its own mean and deviation"
    ),
    "Molmo2ImageProcessor": "scales as no other does, in floats and without a filter",
    **dict.fromkeys(("Llama4ImageProcessor", "MllamaImageProcessor"), "pads a picture to its tiles"),
    "NemotronH_Omni_Reasoning_V3ImageProcessor": "scales by a rule of its own",
    "NeoMMEImageProcessor": "pads a picture to whole patches",
    "NougatImageProcessor": "cuts the margins off a picture",
    "Owlv2ImageProcessor": "blurs a picture before it is scaled",
    "PPDocLayoutV4ImageProcessor": "clips the values after it has scaled them",
    "PPFormulaNetImageProcessor": "cuts the margins off a picture",
    "PPOCRV5ServerDetImageProcessor": "scales by a rule of its own",
    "PPOCRV5ServerRecImageProcessor": "scales to a width of its own for each picture",
    "PPOCRV6SmallRecImageProcessor": "scales to a width of its own for each picture",
    "PerceiverImageProcessor": "cuts a picture before it is scaled",
    "SLANeXtImageProcessor": "scales by a filter of its own",
    "Step3p7ImageProcessor": "scales by a rule of its own",
    "Swin2SRImageProcessor": "pads a picture with its mirror image",
    "UVDocImageProcessor": "scales with aligned corners",
    "UnlimitedOcrImageProcessor": "pads a picture to a square before it is scaled",
    "ZoeDepthImageProcessor": "pads a picture with its mirror image",
}
"""Classes that do what a recipe has no word for, and are run themselves."""

Fields = dict[str, Any]


def say(processor: Any) -> Preprocessing:
    """Say what an image processor does by its class and its settings.

    Raises:
        Unsayable: If it does something that a Preprocessing cannot say; the message names it.
    """
    name = class_name(processor)
    if (reason := NO_PICTURE.get(name) or BY_ITSELF.get(name)) is not None:
        raise Unsayable(f"{name} {reason}.")
    on = "tensor" if _get(processor, "backend") == "torchvision" else "pil"
    fields: Fields = {
        **_numbers(processor),
        "interpolation": _interpolation(processor),
        "on": on,
        "alpha": "white" if _get(processor, "do_convert_rgb") else "drop",
        "rules": "transformers" if on == "pil" else None,
    }
    special = _SPECIAL.get(name)
    extra = [
        flag for flag in sorted(dir(processor)) if flag.startswith("do_") and getattr(processor, flag) is True
        and flag not in _UNDERSTOOD | (special[1] if special else set()) | whole_of(processor).switches.keys()
    ]  # fmt: skip
    if extra:
        raise Unsayable(f"{name} does {', '.join(flag.removeprefix('do_') for flag in extra)}.")
    fields |= special[0](processor, fields) if special else {}
    if "resize" not in fields:
        fields |= _resize(processor)
    return Preprocessing(**_sized(processor, fields))


def _get(processor: Any, name: str) -> Any:
    return getattr(processor, name, None)


def _sides(value: Any) -> dict[str, int]:
    """Give the entries of a size that are set; a number alone is a square."""
    if isinstance(value, int):
        return {"height": value, "width": value}
    return {key: side for key, side in dict(value or {}).items() if side is not None}


def _resize(processor: Any) -> Fields:
    if not _get(processor, "do_resize"):
        return {"resize": None}
    size = _sides(_get(processor, "size"))
    for keys, fields in _SIZES.items():
        if set(size) == set(keys):
            return {"resize": tuple(size[key] for key in keys), **fields}
    raise Unsayable(f"{type(processor).__name__} scales to {size}.")


_SIZES: dict[tuple[str, ...], Fields] = {
    ("height", "width"): {},
    ("shortest_edge",): {},
    ("shortest_edge", "longest_edge"): {"fit": "limit"},
    ("max_height", "max_width"): {"fit": "contain_down"},
}
"""Keys of a processor's size to how they are said."""


def _sized(processor: Any, fields: Fields) -> Fields:
    """Add the size that comes out, and how a scaled picture comes to it."""
    if "size" in fields:
        return fields
    crop = _sides(_get(processor, "crop_size")) if _get(processor, "do_center_crop") else {}
    pad = _sides(_get(processor, "pad_size")) if _get(processor, "do_pad") else {}
    if crop:
        edge = crop.get("shortest_edge")
        return {**fields, "size": (crop.get("height", edge), crop.get("width", edge))}
    if pad:
        return {**fields, "size": (pad["height"], pad["width"]), "crop": "corner", "fill": "mean"}
    resize, fit = fields["resize"], fields.get("fit", "plain")
    if resize is None:
        return {**fields, "size": _USUAL, "crop": "none"}
    if fit == "plain" and len(resize) == 2 and fields.get("multiple", 1) == 1:
        return {**fields, "size": resize}
    return {**fields, "size": (resize[0], resize[0]), "crop": "none"}


_USUAL = (224, 224)


def _numbers(processor: Any) -> Fields:
    """Give factor, mean and standard deviation."""
    mean, std = _get(processor, "image_mean"), _get(processor, "image_std")
    if not _get(processor, "do_normalize") or mean is None or std is None:
        mean, std = 0.0, 1.0
    mean, std = ((value,) * 3 if isinstance(value, (int, float)) else value for value in (mean, std))
    scale = float(_get(processor, "rescale_factor") or 1 / 255) if _get(processor, "do_rescale") else 1.0
    mean, std = (tuple(float(value) for value in values) for values in (mean, std))
    return {"scale": scale, "mean": mean, "std": std, "channels": len(mean)}


def _interpolation(processor: Any) -> str:
    resample = _get(processor, "resample")
    number = 2 if resample is None else int(resample)
    if number not in INTERPOLATIONS:
        raise Unsayable(f"{type(processor).__name__} scales with the filter {resample}.")
    return INTERPOLATIONS[number]


# --- what single classes do beside their flags


def _conv_next(processor: Any, fields: Fields) -> Fields:
    """Scale, then cut, both by one size; large sizes are not cut."""
    edge = _sides(processor.size).get("shortest_edge")
    if edge is None or not processor.do_resize:
        return {}
    small = edge < 384
    return {"resize": (int(edge / processor.crop_pct),) if small else (edge, edge), "size": (edge, edge)}


def _pool_former(processor: Any, fields: Fields) -> Fields:
    size = _sides(processor.size)
    if processor.crop_pct is None or not processor.do_resize:
        return {}
    edges = [int(side / processor.crop_pct) for side in size.values()]
    return {"resize": tuple(edges[:1] if len(set(edges)) == 1 else edges)}


def _levit(processor: Any, fields: Fields) -> Fields:
    edge = _sides(processor.size).get("shortest_edge")
    return {"resize": (int(256 / 224 * edge),)} if edge and processor.do_resize else {}


def _sam(processor: Any, fields: Fields) -> Fields:
    edge = _sides(processor.size).get("longest_edge")
    return {"resize": (edge, edge), "fit": "contain_half_up"} if edge and processor.do_resize else {}


def _janus(processor: Any, fields: Fields) -> Fields:
    """Scale the longer side, and pad to a square around the middle in the mean's colour."""
    if not (processor.do_resize and processor.do_pad):
        raise Unsayable(f"{type(processor).__name__} gives pictures of no fixed size.")
    edge = _sides(processor.size)["height"]
    square, fill = (edge, edge), tuple(processor.background_color)
    return {"resize": square, "fit": "contain_factor", "size": square, "fill": fill}


def _vilt(processor: Any, fields: Fields) -> Fields:
    edge = _sides(processor.size)["shortest_edge"]
    longest = int(1333 / 800 * edge)
    return {"resize": (edge, longest), "fit": "limit_half_up", **_multiple(processor)}


def _mask_former(processor: Any, fields: Fields) -> Fields:
    return {**_resize(processor), **_multiple(processor, snap="up")}


def _yolos(processor: Any, fields: Fields) -> Fields:
    found = _resize(processor)
    return {**found, "multiple": 16} if found.get("fit") == "limit" else found


def _glpn(processor: Any, fields: Fields) -> Fields:
    return {"resize": None, **_multiple(processor)}


def _pixtral(processor: Any, fields: Fields) -> Fields:
    size, patch = _sides(processor.size), _sides(processor.patch_size)
    if patch["height"] != patch["width"]:
        raise Unsayable(f"{type(processor).__name__} takes patches of {patch['height']}×{patch['width']} pixels.")
    resize = (size["longest_edge"],) * 2 if "longest_edge" in size else (size["height"], size["width"])
    return {"resize": resize, "fit": "within", "multiple": patch["height"], "snap": "up"}


def _text_net(processor: Any, fields: Fields) -> Fields:
    return {**_resize(processor), **_multiple(processor, snap="up")}


def _lcnet(processor: Any, fields: Fields) -> Fields:
    """Scale the shorter side, normalise as RGB, and only then turn the channels round."""
    turned = {"order": "BGR", "mean": fields["mean"][::-1], "std": fields["std"][::-1]}
    if processor.resize_short is None or not processor.do_resize:
        return turned
    edge = processor.resize_short
    return {**turned, "resize": (edge, edge), "fit": "cover_factor", **_multiple(processor, snap="up")}


def _mobile_vit(processor: Any, fields: Fields) -> Fields:
    return {"order": "BGR" if processor.do_flip_channel_order else "RGB", "mean": (0.0,) * 3, "std": (1.0,) * 3}


def _tvp(processor: Any, fields: Fields) -> Fields:
    turned: Fields = {}
    if processor.do_flip_channel_order:
        turned = {"order": "BGR", "mean": fields["mean"][::-1], "std": fields["std"][::-1]}
    edge = _sides(processor.size).get("longest_edge")
    return {**turned, "resize": (edge, edge), "fit": "contain_cut"} if edge and processor.do_resize else turned


def _always_turned(processor: Any, fields: Fields) -> Fields:
    return {"order": "BGR", "mean": (0.0,) * 3, "std": (1.0,) * 3, "scale": 1.0}


def _counted(processor: Any, fields: Fields) -> Fields:
    """Scale to a number of pixels, in sides of whole blocks of patches."""
    counted = counting(processor)
    if counted.pixels is None:
        return {"resize": None, "size": (counted.multiple,) * 2, "crop": "none"}
    said: Fields = {"resize": counted.pixels, "fit": counted.fit, "multiple": counted.multiple, "crop": "none"}
    return {**said, "size": scaled_size(*_USUAL, counted.pixels, counted.fit, counted.multiple, "down")}


def _late(processor: Any, fields: Fields) -> Fields:
    """Scale the values, not the 8-bit picture."""
    return {"on": "float"} if fields["on"] == "tensor" else {}


def _rough(processor: Any, fields: Fields) -> Fields:
    return {"antialias": False} if fields["on"] == "tensor" else {}


def _late_and_rough(processor: Any, fields: Fields) -> Fields:
    return {**_late(processor, fields), **_rough(processor, fields)}


def _offset(processor: Any, fields: Fields) -> Fields:
    """Take one from the scaled values, where the flag says so."""
    on = _get(processor, "offset") or _get(processor, "rescale_offset")
    fields = {**fields, "mean": tuple(value + 1 for value in fields["mean"])} if on else fields
    return {"mean": fields["mean"]}


def _efficient_net(processor: Any, fields: Fields) -> Fields:
    """Normalise twice, the second time by the deviation alone, where a classifier follows."""
    mean, std = _offset(processor, fields)["mean"], fields["std"]
    if processor.include_top:
        own = _get(processor, "image_std")
        std = tuple(value * float(again) for value, again in zip(std, own, strict=True))
    return {"mean": mean, "std": std}


def _llava_next(processor: Any, fields: Fields) -> Fields:
    """Scale the whole picture to a square, whatever its shape."""
    edge = _sides(processor.size).get("shortest_edge")
    return {"resize": (edge, edge)} if edge and processor.do_resize else {}


def _llava(processor: Any, fields: Fields) -> Fields:
    if processor.do_pad:
        raise Unsayable(f"{type(processor).__name__} pads a picture to a square before it is scaled.")
    return {}


def _multiple(processor: Any, *, snap: str = "down") -> Fields:
    divisor = _get(processor, "size_divisor") or 1
    return {"multiple": divisor, "snap": snap} if divisor > 1 else {}


_FLIP = {"do_flip_channel_order"}
_SPECIAL: Mapping[str, tuple[Callable[[Any, Fields], Fields], set[str]]] = {
    "BridgeTowerImageProcessor": (_vilt, set()),
    "ConvNextImageProcessor": (_conv_next, set()),
    "DINOv3ViTImageProcessor": (_late, set()),
    "DeepseekVLImageProcessor": (_janus, set()),
    "DepthProImageProcessor": (_late_and_rough, set()),
    "EfficientNetImageProcessor": (_efficient_net, set()),
    "GLPNImageProcessor": (_glpn, set()),
    "JanusImageProcessor": (_janus, set()),
    "LevitImageProcessor": (_levit, set()),
    "LlavaImageProcessor": (_llava, set()),
    "LlavaNextImageProcessor": (_llava_next, set()),
    "Mask2FormerImageProcessor": (_mask_former, set()),
    "MaskFormerImageProcessor": (_mask_former, set()),
    "MobileViTImageProcessor": (_mobile_vit, _FLIP),
    "PPDocLayoutV2ImageProcessor": (_rough, set()),
    "PPDocLayoutV3ImageProcessor": (_rough, set()),
    "PPLCNetImageProcessor": (_lcnet, set()),
    "PixtralImageProcessor": (_pixtral, set()),
    "PoolFormerImageProcessor": (_pool_former, set()),
    "RfDetrImageProcessor": (_late_and_rough, set()),
    "SamImageProcessor": (_sam, set()),
    "TextNetImageProcessor": (_text_net, set()),
    "TvpImageProcessor": (_tvp, _FLIP),
    "ViltImageProcessor": (_vilt, set()),
    "VivitImageProcessor": (_offset, set()),
    "YolosImageProcessor": (_yolos, set()),
    "LayoutLMv2ImageProcessor": (_always_turned, set()),
    **{name: (_counted, set()) for name in COUNTING},
}
"""Class to what it does beside its flags, and the flags that this takes care of."""
