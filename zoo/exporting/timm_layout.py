"""timm's form: ``config.json`` and ``model.safetensors``, which ``timm.create_model("local-dir:FOLDER")`` loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.exporting.joining import joined
from zoo.exporting.parts import Parts

__all__ = ["TimmLayout"]

_USUAL_CHANNELS = 3
"""Channels that transformers expects of a timm folder that does not say them among ``model_args``."""


class TimmLayout:
    """A timm model with a classifier of its own."""

    library = "timm"

    def native(self, parts: Parts) -> nn.Module:
        """Make timm's own model with the tensors of the parts.

        Raises:
            ConfigError: If timm's classifier for the architecture is no linear layer.
        """
        config = _config(parts)
        arguments = config.get("model_args", {})
        who = parts.backbone.spec.reference
        import timm

        def make() -> nn.Module:
            model: nn.Module = timm.create_model(config["architecture"], num_classes=len(parts.classes), **arguments)
            return model

        return joined(who, make, parts, prefix="")

    def files(self, parts: Parts, native: nn.Module) -> Mapping[str, bytes]:
        """Give the ``config.json``."""
        return {"config.json": json.dumps(_config(parts), indent=2, ensure_ascii=False).encode("utf-8") + b"\n"}

    def load(self, folder: str) -> nn.Module:
        """Load a folder as a user of timm does."""
        import timm

        model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
        return model.eval()

    def logits(self, native: nn.Module, pictures: Tensor) -> Tensor:
        """Run timm's model."""
        output: Tensor = native(pictures)
        return output


def _config(parts: Parts) -> dict[str, Any]:
    """Take the configuration with which timm loads the backbone, and let it have the classes."""
    given: Any = parts.backbone.native_files().get("config.json")
    if not isinstance(given, dict) or "architecture" not in given:
        raise ConfigError(f"{parts.backbone.spec.reference}: timm has no configuration for it; it cannot be exported.")
    count = len(parts.classes)
    pretrained = {k: v for k, v in given["pretrained_cfg"].items() if k not in ("label_names", "label_descriptions")}
    config = {**given, "num_classes": count, "pretrained_cfg": {**pretrained, "num_classes": count}}
    config["label_names"] = list(parts.classes)
    recipe = parts.backbone.spec.preprocessing
    if recipe is not None:  # timm's own mean and std are those of three channels
        config["pretrained_cfg"] |= {"mean": list(recipe.mean), "std": list(recipe.std)}
    channels = pretrained["input_size"][0]
    arguments = {k: v for k, v in given.get("model_args", {}).items() if k != "num_classes"}
    if channels != _USUAL_CHANNELS:
        arguments["in_chans"] = channels
    config.pop("model_args", None)
    return {**config, "model_args": arguments} if arguments else config
