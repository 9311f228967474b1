"""A picture to what a backbone takes, by transformers' own image processor, where no recipe says what that does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from PIL import Image
from torch import Tensor
from transformers.image_processing_utils import BaseImageProcessor
from transformers.models.auto.image_processing_auto import (
    IMAGE_PROCESSOR_MAPPING_NAMES,
    get_image_processor_class_from_name,
)

from zoo.errors import ConfigError, DataError
from zoo.preprocessing import check_ready, to_mode
from zoo.spec import InputSpec
from zoo_huggingface.plans import clean
from zoo_huggingface.quiet import quiet
from zoo_huggingface.recipes import BY_ITSELF
from zoo_huggingface.sources import Source, first_line
from zoo_huggingface.whole import NO_PICTURE, Unsayable, class_name, one_picture, whole_of

__all__ = ["PROCESSOR_FILE", "Pictures", "found_processor", "make_processor", "runs_itself", "without_processor"]

PROCESSOR_FILE = "preprocessor_config.json"
"""The file that makes an image processor."""

_NAMES = ("image_processor_type", "feature_extractor_type", "processor_class")
_ELSEWHERE = ("class_info_file", "repo_path")
"""Settings by which a class would read another file, or another repository."""


def found_processor(source: Source) -> dict[str, Any] | None:
    """Find the JSON of the image processor that a source brings; None if it brings none.

    Raises:
        ConfigError: If a file is not JSON.
        WeightsError: If the hub cannot be asked.
    """
    nested = (source.json("processor_config.json") or {}).get("image_processor")
    return dict(nested) if isinstance(nested, dict) else source.json(PROCESSOR_FILE)


def without_processor(who: str, where: str) -> str:
    """Say why a source gives no image processor."""
    return f"{who}: {where} brings no image processor ({PROCESSOR_FILE}); give it tensors."


def make_processor(found: Mapping[str, Any], model_type: str) -> Any:
    """Make the processor that a JSON describes, of a class that is transformers' own.

    Raises:
        Unsayable: If there is no such class, or it cannot be made from this.
    """
    name = _name(found, model_type)
    if name is None:
        raise Unsayable("its file names no image processor.")
    if not name.isidentifier() or "ImageProcessor" not in name:  # transformers would import any of its names
        raise Unsayable(f"transformers has no image processor {name!r}.")
    with quiet():
        cls = get_image_processor_class_from_name(name)
        if not (isinstance(cls, type) and issubclass(cls, BaseImageProcessor)) or not _is_own(cls):
            raise Unsayable(f"transformers has no image processor {name!r}.")
        try:
            return cls(**_settings(found))
        except Exception as error:  # what a processor's constructor raises has no common type
            raise Unsayable(f"{name} cannot be made from its file: {first_line(error)}") from error


def _is_own(cls: type) -> bool:
    """Say whether a class is transformers' own, and none that a program has registered there."""
    return cls.__module__.startswith("transformers.models.")


def runs_itself(model_type: str) -> bool:
    """Say whether the default processor of a type is one that no recipe says, and gives pictures."""
    return (_name({}, model_type) or "").removesuffix("Pil") in BY_ITSELF


def _name(found: Mapping[str, Any], model_type: str) -> str | None:
    default = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type, {})
    said = found.get("image_processor_type") or found.get("feature_extractor_type")
    said = said or default.get("torchvision") or default.get("pil")
    if not isinstance(said, str):
        return None
    return said.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")


def _settings(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in clean(found).items() if key not in (*_NAMES, *_ELSEWHERE)}


class Pictures:
    """An image processor of transformers, the JSON that it is made of, and what must come out of it.

    It is called as :func:`~zoo_huggingface.whole.one_picture` says: with its tiles switched off, and with its reading
    of texts (Tesseract) too, since those are no part of the picture. It pickles as its JSON, and holds no weights.

    Args:
        who: The reference, for messages.
        model_type: The type, which names the processor where the JSON does not.
        said: The JSON; empty for the defaults of the type's own processor.
        takes: What the backbone takes.
        size: Height and width that must come out, in pixels, and to which a processor of one size is set; None for the
            processor's own.

    Raises:
        ConfigError: If transformers has no such processor, it cannot be made from this, or gives no single picture.
    """

    def __init__(
        self, who: str, model_type: str, said: Mapping[str, Any], takes: InputSpec, size: tuple[int, int] | None
    ) -> None:
        self._made_of = (who, model_type, dict(said), takes, size)
        try:
            processor = make_processor(said, model_type)
            name = class_name(processor)
            if name in NO_PICTURE:
                raise Unsayable(f"{name} {NO_PICTURE[name]}.")
            fields = _settings(said)
            if size is not None and (sized := _at(processor, fields, size)) != fields:
                fields, processor = sized, make_processor({**said, **sized}, model_type)
        except Unsayable as error:
            raise ConfigError(f"{who}: its image processor cannot be used; give it tensors: {error}") from error
        self._processor = processor
        self._said = {**fields, "image_processor_type": type(processor).__name__}

    def __reduce__(self) -> tuple[Any, ...]:
        return Pictures, self._made_of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pictures) and self._alike == other._alike

    def __hash__(self) -> int:
        return hash(self._alike)

    @property
    def _alike(self) -> tuple[Any, ...]:
        takes, size = self._made_of[3:]
        return json.dumps(self._said, sort_keys=True), takes, size

    @classmethod
    def read(
        cls, who: str, model_type: str, content: bytes, takes: InputSpec, size: tuple[int, int] | None
    ) -> Pictures:
        """Make it from the content of its file.

        Raises:
            ConfigError: If that is no JSON object, or no processor can be made from it.
        """
        try:
            said = json.loads(content)
        except ValueError as error:
            raise ConfigError(f"{who}: its {PROCESSOR_FILE} is not JSON: {error}.") from error
        if not isinstance(said, dict):
            raise ConfigError(f"{who}: its {PROCESSOR_FILE} must hold a JSON object, got {type(said).__name__}.")
        return cls(who, model_type, said, takes, size)

    def files(self) -> dict[str, bytes]:
        """Give the file that makes it again."""
        return {PROCESSOR_FILE: json.dumps(self._said, indent=2).encode("utf-8")}

    def __call__(self, sample: Any) -> Tensor:
        """Turn a picture into what the backbone takes.

        Args:
            sample: A Pillow image of any mode; or a ready float tensor, which is only checked.

        Shape:
            - returns: ``(C, H, W)`` float32.

        Raises:
            ShapeError: If a tensor has the wrong rank, channels or dtype.
            ConfigError: If the processor gives what the backbone does not take.
            DataError: If it is no picture, or the processor cannot use it.
        """
        who, _, _, takes, _ = self._made_of
        if isinstance(sample, Tensor):
            return check_ready(sample, takes.channels or 3)
        if not isinstance(sample, Image.Image):
            raise DataError(f"{who} takes a picture, a Pillow image, got {type(sample).__name__}.")
        try:
            made = one_picture(self._processor, self._opened(sample))
        except Unsayable as error:
            raise DataError(f"{who}: its image processor cannot use the picture: {error}") from error
        self._check(made)
        return made

    def _opened(self, picture: Image.Image) -> Image.Image:
        """Bring a picture to RGB; what is clear stays so where the processor lays it over a ground of its own."""
        if whole_of(self._processor).own_ground and picture.has_transparency_data:
            return picture.convert("RGBA")
        over_white = bool(getattr(self._processor, "do_convert_rgb", False))
        return to_mode(picture, 3, alpha="white" if over_white else "drop")

    def _check(self, made: Tensor) -> None:
        who, _, _, takes, size = self._made_of
        channels, *sides = made.shape
        size = takes.size if takes.fixed_size else size
        wanted = None if size is None or tuple(sides) == size else f"{size[0]}×{size[1]} pixels"
        if any(side % takes.divisor for side in sides):
            wanted = wanted or f"sides divisible by {takes.divisor}"
        if takes.channels not in (None, channels):
            wanted = f"{takes.channels} channels"
        if wanted is not None:
            raise ConfigError(
                f"{who}: its own image processor, {type(self._processor).__name__}, gives {tuple(made.shape)}, and the "
                f"backbone takes {wanted}; give it tensors."
            )


def _at(processor: Any, fields: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Set a processor's size, where it has one of height and width, and with it what is cut or padded to the same."""
    own = _sides(getattr(processor, "size", None))
    if set(own) != {"height", "width"}:
        return dict(fields)
    set_to = {"height": size[0], "width": size[1]}
    names = [name for name in ("size", "crop_size", "pad_size") if _sides(getattr(processor, name, None)) == own]
    return {**fields, **dict.fromkeys(names, set_to)}


def _sides(size: Any) -> dict[str, int]:
    """Give the entries of a size that are set; none for a number alone, which may be an edge."""
    return {} if size is None or isinstance(size, int) else {key: side for key, side in dict(size).items() if side}
