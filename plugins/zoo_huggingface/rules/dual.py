"""Dual towers: a type of two encoders with one space, each a part with a rule of its own.

A part is built by the library's class for it where there is one; elsewhere (``tower`` without ``config``) the whole
model is built, and what lies beside the tower and its projection is cut off. A pooled vector is what the projection
takes, so a part offers no other. A language model that also
looks at pictures has one part, its text model.
"""

from __future__ import annotations

from dataclasses import replace

from zoo_huggingface.rules.audio import CLAP_AUDIO
from zoo_huggingface.rules.rule import Rule
from zoo_huggingface.rules.sequence import Sequence

__all__ = ["PARTS"]

_IDS = Sequence()
_PAIRS = Sequence(extra={"token_type_ids": 2})
_PADDED = Sequence(padded=True)

_VISION = Rule(
    takes="picture",
    pooling=("pooler",),
    blocks="encoder.layers",
    maps="tokens",
    resize="flag",
    tower="vision_model",
    projection="visual_projection",
    view="vision_config",
)
_TEXT = Rule(
    sequence=_IDS,
    pooling=("eos",),
    blocks="encoder.layers",
    tower="text_model",
    projection="text_projection",
    view="text_config",
)
_BERT_TEXT = replace(_TEXT, sequence=_PAIRS, pooling=("cls",), blocks="encoder.layer")
_LANGUAGE = Rule(
    sequence=_IDS,
    pooling=("last", "mean"),
    blocks="layers",
    tower="language_model",
    call={"use_cache": False},
    view="text_config",
)
_ENCODER = Rule(sequence=_IDS, pooling=("mean", "cls"), blocks="layers", tower="text_model", view="text_config")
_CLIP = {"vision": _VISION, "text": _TEXT}


def _with_projection(name: str) -> dict[str, Rule]:
    """Give the parts of a type that has a class for each tower with its projection."""
    return {
        "vision": replace(_VISION, model=f"{name}VisionModelWithProjection", config="vision_config", view=""),
        "text": replace(_TEXT, model=f"{name}TextModelWithProjection", config="text_config", view=""),
    }


PARTS: dict[str, dict[str, Rule]] = {
    "aimv2": {"vision": replace(_VISION, resize="fixed"), "text": _TEXT},
    "align": {
        "vision": replace(_VISION, blocks="", maps=None, resize="free", projection=""),
        "text": _BERT_TEXT,
    },
    "altclip": {"vision": _VISION, "text": replace(_BERT_TEXT, blocks="roberta.encoder.layer")},
    "blip": {"vision": _VISION, "text": replace(_TEXT, pooling=("pooler",), blocks="encoder.layer")},
    "chinese_clip": {"vision": _VISION, "text": _BERT_TEXT},
    "clap": {
        "audio": Rule(
            sequence=CLAP_AUDIO,
            pooling=("pooler",),
            blocks="audio_encoder.layers",
            model="ClapAudioModelWithProjection",
            tower="audio_model",
            projection="audio_projection",
            config="audio_config",
        ),
        "text": Rule(
            sequence=_PAIRS,
            pooling=("pooler",),
            blocks="encoder.layer",
            model="ClapTextModelWithProjection",
            tower="text_model",
            projection="text_projection",
            config="text_config",
        ),
    },
    "clip": _with_projection("CLIP"),
    "clipseg": _CLIP,
    "flava": {
        "vision": replace(
            _VISION,
            pooling=("cls",),
            blocks="encoder.layer",
            tower="image_model",
            projection="image_projection",
            view="image_config",
        ),
        "text": _BERT_TEXT,
    },
    "groupvit": {
        "vision": replace(_VISION, blocks="encoder.stages", maps=None, resize="fixed"),
        "text": _TEXT,
    },
    "metaclip_2": _with_projection("MetaClip2"),
    "owlv2": _CLIP,
    "owlvit": _CLIP,
    "siglip": {
        "vision": Rule(
            takes="picture",
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
            sequence=_PADDED,
            pooling=("pooler",),
            blocks="encoder.layers",
            model="SiglipTextModel",
            projection="",
            config="text_config",
        ),
    },
    "siglip2": {
        "text": Rule(
            sequence=_PADDED,
            pooling=("pooler",),
            blocks="encoder.layers",
            model="Siglip2TextModel",
            projection="",
            config="text_config",
        ),
    },
    "tipsv2": {
        "vision": replace(_VISION, blocks="encoder.layer", resize="free", projection=""),
        "text": replace(_TEXT, sequence=_PADDED, pooling=("pooler",), projection=""),
    },
    "videoprism": {
        "text": replace(_TEXT, pooling=("pooler",), blocks="", projection=""),
    },
    "xclip": {"text": _TEXT},
    "idefics": {
        "vision": replace(
            _VISION,
            pooling=("pooler", "mean"),
            projection=None,
            forced={"num_hidden_layers": 0, "freeze_vision_layers": False, "freeze_text_layers": False},
        ),
    },
    "llama4": {"text": replace(_LANGUAGE, tower="language_model.model")},
    "mllama": {"text": _LANGUAGE},
    "modernvbert": {"text": _ENCODER},
    "ultravbert": {"text": _ENCODER},
}
"""Model type of a dual tower to its parts, each with its rule."""
