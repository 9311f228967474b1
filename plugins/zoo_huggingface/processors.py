"""Between transformers' image processors and zoo's Preprocessing: one recipe, proven on pictures of noise."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.models.auto.image_processing_auto import (
    IMAGE_PROCESSOR_MAPPING_NAMES,
    get_image_processor_class_from_name,
)

from zoo.errors import ConfigError, WeightsError
from zoo.preprocessing import Preprocessing
from zoo_huggingface.plans import clean
from zoo_huggingface.quiet import quiet
from zoo_huggingface.sources import Source, first_line

__all__ = ["DEFAULT_SIZE", "as_preprocessing", "as_processor", "default_preprocessing", "read_preprocessing"]

log = logging.getLogger("zoo")

DEFAULT_SIZE = (224, 224)
"""Height and width in pixels where neither config nor processor says one."""

_INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_UNDERSTOOD = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_reduce_labels"}
_PROOF = ((96, 48), (60, 120))
"""Width and height of the pictures of noise, in pixels: one side twice the other, so that crops of the usual even sizes
leave an even margin. Where the margin is odd, transformers rounds its half down and torchvision to even, so that a
recipe's crop may lie one pixel beside the processor's."""
_TOLERANCE = 1.0 / 255


def read_preprocessing(
    who: str, source: Source, model_type: str, *, channels: int, size: tuple[int, int] | None
) -> Preprocessing | None:
    """Read a source's image processor as a Preprocessing; a source without one gets the default.

    Args:
        who: The reference, for messages.
        source: Where the backbone comes from.
        model_type: Its type, which names the processor where the file does not.
        channels: Channels that the backbone takes.
        size: Height and width that the backbone must get, in pixels; None for the processor's own.

    Returns:
        The recipe; None, with a line in the log, if the processor does what a Preprocessing cannot say.

    Raises:
        ConfigError: If the file is not JSON.
    """
    try:
        nested = (source.json("processor_config.json") or {}).get("image_processor")
        found = nested or source.json("preprocessor_config.json")
        if found is None:
            return default_preprocessing(channels, size or DEFAULT_SIZE)
        said = as_preprocessing(_processor(found, model_type))
    except (WeightsError, _Unsayable) as error:
        log.warning("%s: its preprocessing is not known, so give it tensors that are ready: %s", who, error)
        return None
    return _fitted(said, channels, size or said.size)


def default_preprocessing(channels: int, size: tuple[int, int]) -> Preprocessing:
    """Give the recipe for a backbone that says none: scale to its size, values from -1 to 1."""
    half = (0.5,) * channels
    return Preprocessing(
        size=size, resize=size, interpolation="bilinear", on="tensor", mean=half, std=half, channels=channels
    )


def as_preprocessing(processor: Any) -> Preprocessing:
    """Say what an image processor does, and prove it on two pictures of noise.

    Raises:
        ConfigError: If it does something that a Preprocessing cannot say; the message names it.
    """
    name = type(processor).__name__
    extra = [
        flag for flag in sorted(dir(processor)) if flag.startswith("do_") and getattr(processor, flag) is True
        and flag not in _UNDERSTOOD
    ]  # fmt: skip
    if extra:
        raise _Unsayable(f"{name} does {', '.join(flag.removeprefix('do_') for flag in extra)}.")
    resize, size = _sizes(processor)
    mean, std = _mean_std(processor)
    said = Preprocessing(
        size=size,
        resize=resize,
        interpolation=_interpolation(processor),  # type: ignore[arg-type]
        on="pil" if name.endswith("Pil") else "tensor",
        mean=mean,
        std=std,
        channels=len(mean),
    )
    _prove(processor, said)
    return said


def as_processor(said: Preprocessing | None) -> dict[str, object] | None:
    """Write a Preprocessing as the ``preprocessor_config.json`` of a processor that does the same.

    Returns:
        Its content; None if there is no recipe, or it is not for pictures of three channels.
    """
    if said is None or said.channels != 3:
        return None
    resize = said.resize
    size = {"shortest_edge": resize[0]} if resize and len(resize) == 1 else None
    height, width = resize if resize is not None and len(resize) == 2 else said.size
    resample = {text: number for number, text in _INTERPOLATIONS.items()}[said.interpolation]
    return {
        "image_processor_type": "CLIPImageProcessorPil" if said.on == "pil" else "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": resize is not None,
        "size": size or {"height": height, "width": width},
        "resample": resample,
        "do_center_crop": True,
        "crop_size": {"height": said.size[0], "width": said.size[1]},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(said.mean),
        "image_std": list(said.std),
    }


class _Unsayable(ConfigError):
    """Raised when a processor does what a Preprocessing cannot say."""


def _processor(found: dict[str, Any], model_type: str) -> Any:
    """Make the processor that a file describes, of a class that transformers itself has."""
    name = found.get("image_processor_type") or found.get("feature_extractor_type")
    name = name or IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type, {}).get("torchvision")
    if not isinstance(name, str):
        raise _Unsayable("its file names no image processor.")
    name = name.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")
    with quiet():
        cls = get_image_processor_class_from_name(name)
        if cls is None:
            raise _Unsayable(f"transformers has no image processor {name!r}.")
        try:
            return cls(**clean(found))
        except Exception as error:  # what a processor's constructor raises has no common type
            raise _Unsayable(f"{name} cannot be made from its file: {first_line(error)}") from error


def _sizes(processor: Any) -> tuple[tuple[int, ...] | None, tuple[int, int]]:
    """Give what a picture is scaled to, and the size that comes out."""
    name, size = type(processor).__name__, dict(_get(processor, "size") or {})
    size = {key: value for key, value in size.items() if value is not None}
    resize: tuple[int, ...] | None = None
    if _get(processor, "do_resize"):
        if set(size) == {"height", "width"}:
            resize = (size["height"], size["width"])
        elif set(size) == {"shortest_edge"}:
            resize = (size["shortest_edge"],)
        else:
            raise _Unsayable(f"{name} scales to {size}.")
        share = getattr(processor, "crop_pct", None)
        if share and len(resize) == 1:  # ConvNeXt and ResNet: scale, then crop, both by one size
            edge = resize[0]
            return ((int(edge / share),) if edge < 384 else (edge, edge)), (edge, edge)
    if _get(processor, "do_center_crop"):
        crop = dict(_get(processor, "crop_size") or {})
        return resize, (crop["height"], crop["width"])
    if resize is None or len(resize) == 1:
        raise _Unsayable(f"{name} gives pictures of no fixed size.")
    return resize, (resize[0], resize[1])


def _mean_std(processor: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Give mean and standard deviation on the scale of [0, 1], whatever the processor multiplies pixels by."""
    mean, std = _get(processor, "image_mean"), _get(processor, "image_std")
    if not _get(processor, "do_normalize") or mean is None or std is None:
        mean, std = (0.0,) * 3, (1.0,) * 3
    mean, std = ((value,) * 3 if isinstance(value, (int, float)) else value for value in (mean, std))
    factor = float(_get(processor, "rescale_factor") or 1 / 255) if _get(processor, "do_rescale") else 1.0
    scale = 1.0 if abs(factor * 255 - 1) < 1e-6 else factor * 255
    return tuple(float(value) / scale for value in mean), tuple(float(value) / scale for value in std)


def _interpolation(processor: Any) -> str:
    resample = _get(processor, "resample")
    number = 2 if resample is None else int(resample)
    if number not in _INTERPOLATIONS:
        raise _Unsayable(f"{type(processor).__name__} scales with the filter {resample}.")
    return _INTERPOLATIONS[number]


def _get(processor: Any, name: str) -> Any:
    return getattr(processor, name, None)


def _prove(processor: Any, said: Preprocessing) -> None:
    name, std = type(processor).__name__, torch.tensor(said.std)[:, None, None]
    for width, height in _PROOF:
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        picture = Image.fromarray(noise)
        try:
            with quiet():
                theirs = processor(images=picture, return_tensors="pt")["pixel_values"][0]
        except Exception as error:  # what a processor raises has no common type
            raise _Unsayable(f"{name} fails on a picture: {first_line(error)}") from error
        ours = said.apply(picture)
        if theirs.shape != ours.shape or float(((theirs - ours) * std).abs().max()) > _TOLERANCE:
            raise _Unsayable(f"{name} gives other numbers than scaling, cropping and normalising do.")


def _fitted(said: Preprocessing, channels: int, size: tuple[int, int]) -> Preprocessing:
    """Carry a recipe over to other channels or another input size, as the user's options ask."""
    mean, std, resize = said.mean, said.std, said.resize
    if channels != said.channels:
        mean, std = (sum(mean) / len(mean),) * channels, (sum(std) / len(std),) * channels
    if size != said.size and resize is not None:
        resize = tuple(round(edge * size[0] / said.size[0]) for edge in resize)
    return Preprocessing(
        size=size, resize=resize, interpolation=said.interpolation, on=said.on, mean=mean, std=std, channels=channels
    )
