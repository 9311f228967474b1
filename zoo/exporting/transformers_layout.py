"""transformers' form: what ``AutoModelForImageClassification.from_pretrained(FOLDER)`` loads, and its processor."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.exporting.joining import joined
from zoo.exporting.parts import Parts

__all__ = ["TransformersLayout"]

_PROCESSOR = "preprocessor_config.json"


class TransformersLayout:
    """A transformers model for image classification."""

    library = "transformers"

    def native(self, parts: Parts) -> nn.Module:
        """Make transformers' own model with the tensors of the parts.

        Raises:
            ConfigError: If transformers has no image classifier of that type, or its classifier is no linear layer on
                the pooled vector.
        """
        cls, config = _class_of(parts)
        return joined(parts.backbone.spec.reference, lambda: cls(config), parts, prefix=f"{cls.base_model_prefix}.")

    def files(self, parts: Parts, native: nn.Module) -> Mapping[str, bytes]:
        """Give the ``config.json`` with the labels, and what the backbone brings, its image processor above all.

        Raises:
            ConfigError: If transformers has no image processor for what is done to pictures.
        """
        model: Any = native
        brought = dict(parts.backbone.native_files())
        if _PROCESSOR not in brought:
            raise ConfigError(
                f"{parts.backbone.spec.reference}: transformers has no image processor that does what its "
                "preprocessing does; it cannot be exported."
            )
        config = json.loads(model.config.to_json_string())
        config = {key: value for key, value in config.items() if not key.startswith("_")}
        brought["config.json"] = {**config, "architectures": [type(native).__name__], "dtype": "float32"}
        return {name: value if isinstance(value, bytes) else _written(value) for name, value in brought.items()}

    def load(self, folder: str) -> nn.Module:
        """Load a folder as a user of transformers does."""
        from transformers import AutoModelForImageClassification

        with _without_bars():
            model: nn.Module = AutoModelForImageClassification.from_pretrained(
                folder, local_files_only=True, use_safetensors=True
            )
        return model.eval()

    def logits(self, native: nn.Module, pictures: Tensor) -> Tensor:
        """Run transformers' model."""
        output: Tensor = native(pixel_values=pictures).logits
        return output


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep transformers from drawing progress for what takes no time."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _written(value: object) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode("utf-8") + b"\n"


def _class_of(parts: Parts) -> tuple[Any, Any]:
    """Give transformers' class for the backbone's type, and the configuration with the labels.

    Raises:
        ConfigError: If it has none.
    """
    from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

    backbone: Any = parts.backbone.native
    kind = type(backbone.config)
    if kind not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise ConfigError(
            f"{parts.backbone.spec.reference}: transformers has no image classifier of the type "
            f"{getattr(kind, 'model_type', kind.__name__)!r}."
        )
    found = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[kind]
    data = json.loads(backbone.config.to_json_string())
    data = {key: value for key, value in data.items() if not key.startswith("_")}
    data["id2label"] = {str(place): name for place, name in enumerate(parts.classes)}
    data["label2id"] = {name: place for place, name in enumerate(parts.classes)}
    data["problem_type"] = "multi_label_classification" if parts.multi_label else "single_label_classification"
    data.pop("num_labels", None)
    config = kind.from_dict(data)
    return (found[0] if isinstance(found, (list, tuple)) else found), config
