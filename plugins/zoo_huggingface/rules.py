"""What each model type of transformers needs said about it: a table, so that a type is served by adding a line.

A type without a line goes the generic way (:data:`GENERIC`): the mean of ``last_hidden_state`` over real tokens or
space, and no maps. ``tests/plugins/huggingface`` holds every line to what the library itself gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

__all__ = ["GENERIC", "PARTS", "RULES", "UNSERVED", "Rule"]

Maps = Literal["tokens", "hidden_states", "reshaped_hidden_states"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How one model type becomes a uniform backbone.

    Args:
        pooling: What may give the pooled vector, the default first: ``cls`` (first token of ``last_hidden_state``),
            ``mean`` (over real tokens without prefix, or over space), ``pooler`` (the library's ``pooler_output``),
            ``eos`` (the same, where that is the end-of-text token), ``last`` (last real token).
        blocks: Path of the list of blocks; empty if not known, which leaves one stage, ``post``.
        maps: Which part of the output holds the maps; None if there are none.
        first: Index in the hidden states of what the first block gives; 1 where the embeddings' output stands first.
        resize: ``free`` (takes any picture size), ``flag`` (takes others when told to interpolate its positions) or
            ``fixed``.
        optional_pooler: Whether its class takes ``add_pooling_layer``.
        unpooled: Config fields to set when the pooler is not used, so that it is not built.
        forced: Config fields that are always set, so that no parameter is built which never runs.
        unused: Paths of parameters that never run in an encoder; they are removed, and left out of files.
        before_downsampling: Module whose pass is asked for the maps in front of each stage's downsampling.
        call: Further arguments of the forward pass.
        model: Name of its class in transformers, where that is not what ``AutoModel`` gives.
        tower: Path of the encoder inside that class.
        projection: Path of the layer that projects the pooled vector into the space shared by two towers; empty where
            the pooled vector is in that space already; None for a model that is no part of a dual tower.
        config: Field of the dual tower's config that holds this tower's.
    """

    pooling: tuple[str, ...] = ("mean",)
    blocks: str = ""
    maps: Maps | None = None
    first: int = 1
    resize: Literal["free", "flag", "fixed"] = "free"
    optional_pooler: bool = False
    unpooled: Mapping[str, Any] = field(default_factory=dict)
    forced: Mapping[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    before_downsampling: str | None = None
    call: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    tower: str = ""
    projection: str | None = None
    config: str | None = None


GENERIC = Rule(resize="fixed")
"""For a type without a rule."""

_VIT = Rule(pooling=("cls", "mean", "pooler"), blocks="layers", maps="tokens", resize="flag", optional_pooler=True)
_DINOV2 = Rule(pooling=("cls", "mean"), blocks="encoder.layer", maps="tokens", unused=("embeddings.mask_token",))
_CONV = Rule(pooling=("pooler",), blocks="encoder.stages", maps="hidden_states")
_SWIN = Rule(
    pooling=("pooler",),
    blocks="encoder.layers",
    maps="reshaped_hidden_states",
    resize="flag",
    before_downsampling="encoder",
)
_BERT = Rule(pooling=("mean", "cls", "pooler"), blocks="encoder.layer", optional_pooler=True)
_CLIP_VISION = Rule(pooling=("pooler",), blocks="encoder.layers", maps="tokens", resize="flag")
_CLIP_TEXT = Rule(pooling=("eos",), blocks="encoder.layers")
_SIGLIP_VISION = Rule(
    pooling=("pooler", "mean"),
    blocks="encoder.layers",
    maps="tokens",
    resize="flag",
    unpooled={"vision_use_head": False},
)

RULES: dict[str, Rule] = {
    "beit": Rule(
        pooling=("pooler", "cls", "mean"),
        blocks="layers",
        maps="tokens",
        optional_pooler=True,
        forced={"use_mask_token": False},
        unused=("embeddings.mask_token",),
    ),
    "bert": _BERT,
    "clip_text_model": _CLIP_TEXT,
    "clip_vision_model": _CLIP_VISION,
    "convnext": _CONV,
    "convnextv2": _CONV,
    "deit": _VIT,
    "dinov2": replace(_DINOV2, forced={"use_mask_token": False}),
    "dinov2_with_registers": _DINOV2,
    "distilbert": Rule(pooling=("mean", "cls"), blocks="transformer.layer"),
    "electra": Rule(pooling=("mean", "cls"), blocks="encoder.layer"),
    "gpt2": Rule(pooling=("last", "mean"), blocks="h", call={"use_cache": False}),
    "mobilenet_v2": Rule(pooling=("pooler",), blocks="layer", maps="hidden_states", first=0),
    "pvt_v2": Rule(pooling=("mean",), blocks="encoder.layers", maps="hidden_states", first=0),
    "regnet": _CONV,
    "resnet": _CONV,
    "roberta": _BERT,
    "segformer": Rule(
        pooling=("mean",), blocks="stages", maps="hidden_states", first=0, forced={"reshape_last_stage": True}
    ),
    "siglip_text_model": Rule(pooling=("pooler",), blocks="encoder.layers", model="SiglipTextModel"),
    "siglip_vision_model": _SIGLIP_VISION,
    "swin": _SWIN,
    "swinv2": _SWIN,
    "vit": _VIT,
    "xlm-roberta": _BERT,
}
"""Model type to rule."""

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

UNSERVED: dict[str, str] = {
    "timm_wrapper": "it holds a timm model; use 'timm:' and that model's name",
    "timm_backbone": "it holds a timm model; use 'timm:' and that model's name",
    "vision-encoder-decoder": "it is made of two models; name its encoder instead",
    "vision-text-dual-encoder": "it is made of two models; name one of them instead",
    "encoder-decoder": "it is made of two models; name its encoder instead",
    "speech-encoder-decoder": "it is made of two models; name its encoder instead",
}
"""Model type to the reason why it cannot be served."""
