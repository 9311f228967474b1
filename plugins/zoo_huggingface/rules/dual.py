"""Dual towers: a type of two encoders with one space, each a part with a rule of its own."""

from __future__ import annotations

from zoo_huggingface.rules.rule import Rule

__all__ = ["PARTS"]

PARTS: dict[str, dict[str, Rule]] = {
    "clip": {
        "vision": Rule(
            pooling=("pooler",),
            blocks="encoder.layers",
            maps="tokens",
            resize="flag",
            model="CLIPVisionModelWithProjection",
            tower="vision_model",
            projection="visual_projection",
            config="vision_config",
        ),
        "text": Rule(
            pooling=("eos",),
            blocks="encoder.layers",
            model="CLIPTextModelWithProjection",
            tower="text_model",
            projection="text_projection",
            config="text_config",
        ),
    },
    "siglip": {
        "vision": Rule(
            pooling=("pooler",),
            blocks="encoder.layers",
            maps="tokens",
            resize="flag",
            model="SiglipVisionModel",
            projection="",
            config="vision_config",
            forced={"vision_use_head": True},
        ),
        "text": Rule(
            pooling=("pooler",),
            blocks="encoder.layers",
            model="SiglipTextModel",
            projection="",
            config="text_config",
        ),
    },
}
"""Model type of a dual tower to its parts, each with its rule."""
