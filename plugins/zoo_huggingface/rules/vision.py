"""Vision encoders: model type to rule."""

from __future__ import annotations

from dataclasses import replace

from zoo_huggingface.rules.rule import Rule

__all__ = ["VISION"]

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
_CLIP_VISION = Rule(pooling=("pooler",), blocks="encoder.layers", maps="tokens", resize="flag")
_SIGLIP_VISION = Rule(
    pooling=("pooler", "mean"),
    blocks="encoder.layers",
    maps="tokens",
    resize="flag",
    unpooled={"vision_use_head": False},
)

VISION: dict[str, Rule] = {
    "beit": Rule(
        pooling=("pooler", "cls", "mean"),
        blocks="layers",
        maps="tokens",
        optional_pooler=True,
        forced={"use_mask_token": False},
        unused=("embeddings.mask_token",),
    ),
    "clip_vision_model": _CLIP_VISION,
    "convnext": _CONV,
    "convnextv2": _CONV,
    "deit": _VIT,
    "dinov2": replace(_DINOV2, forced={"use_mask_token": False}),
    "dinov2_with_registers": _DINOV2,
    "mobilenet_v2": Rule(pooling=("pooler",), blocks="layer", maps="hidden_states", first=0),
    "pvt_v2": Rule(pooling=("mean",), blocks="encoder.layers", maps="hidden_states", first=0),
    "regnet": _CONV,
    "resnet": _CONV,
    "segformer": Rule(
        pooling=("mean",), blocks="stages", maps="hidden_states", first=0, forced={"reshape_last_stage": True}
    ),
    "siglip_vision_model": _SIGLIP_VISION,
    "swin": _SWIN,
    "swinv2": _SWIN,
    "vit": _VIT,
}
