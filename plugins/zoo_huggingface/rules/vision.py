"""Vision encoders: model type to rule.

A type whose ``AutoModel`` there is uses it; of a type that has an ``AutoBackbone`` only, the maps are those before the
norms that the backbone puts on them.
"""

from __future__ import annotations

from dataclasses import replace

from zoo_huggingface.rules.rule import Rule

__all__ = ["VISION"]

_PATCH = ("patch_size",)
_VIT = Rule(
    pooling=("cls", "mean", "pooler"),
    blocks="layers",
    maps="tokens",
    resize="flag",
    optional_pooler=True,
    forced={"use_mask_token": False},
)
_PLAIN = Rule(pooling=("mean",), blocks="encoder.layer", maps="tokens", resize="fixed")
_DINOV2 = Rule(pooling=("cls", "mean"), blocks="encoder.layer", maps="tokens", divisor=_PATCH)
_DINOV3 = Rule(pooling=("pooler", "mean"), blocks="model.layer", maps="tokens")
_CONV = Rule(pooling=("pooler",), blocks="encoder.stages", maps="nchw", stem="embedder", least=32)
_LCNET = Rule(
    pooling=("mean",), last="feature_maps", blocks="encoder.blocks", maps="nchw", stem="encoder.convolution", least=32
)
_SWIN = Rule(
    pooling=("pooler",),
    blocks="encoder.layers",
    inside="blocks",
    maps="tokens",
    growth=2,
    rounding="ceil",
    resize="flag",
)
_PYRAMID = Rule(pooling=("mean",), maps="nchw", resize="free", least=32)
_CLIP_VISION = Rule(pooling=("pooler", "mean"), blocks="encoder.layers", maps="tokens", resize="flag")
_SIGLIP_VISION = replace(_CLIP_VISION, unpooled={"vision_use_head": False})
_SAM = Rule(blocks="vision_encoder.layers", maps="nhwc", resize="fixed")
_SAM2 = Rule(blocks="backbone.blocks", maps="nhwc", state="nhwc", size=(1024, 1024), resize="fixed")
_WINDOWS = Rule(last="feature_maps", blocks="encoder.layer", maps="windows")

VISION: dict[str, Rule] = {
    "aimv2_vision_model": replace(_CLIP_VISION, resize="fixed"),
    "beit": replace(_VIT, pooling=("pooler", "cls", "mean"), resize="free", divisor=_PATCH),
    "bit": replace(_CONV, pooling=("pooler",)),
    "chinese_clip_vision_model": _CLIP_VISION,
    "clip_vision_model": _CLIP_VISION,
    "convnext": _CONV,
    "convnextv2": _CONV,
    "cvt": Rule(pooling=("mean",), blocks="encoder.stages", maps="nchw", least=32),
    "data2vec-vision": replace(
        _PLAIN,
        resize="free",
        divisor=_PATCH,
        pooling=("cls", "mean", "pooler"),
        optional_pooler=True,
        forced={"use_mask_token": False},
    ),
    "deit": replace(_VIT, forced={}),
    "dinov2": _DINOV2,
    "dinov2_with_registers": _DINOV2,
    "dinov3_convnext": Rule(
        pooling=("pooler", "mean"), blocks="model.stages", maps="nchw", stride=4, growth=2, least=32
    ),
    "dinov3_vit": _DINOV3,
    "donut-swin": replace(_SWIN, windows="window_size"),
    "dpt": replace(_PLAIN, resize="free", pooling=("cls", "mean"), forced={"is_hybrid": False}),
    "edgetam_vision_model": Rule(size=(1024, 1024), state="nhwc"),
    "efficientnet": Rule(
        pooling=("pooler",), blocks="encoder.blocks", maps="nchw", stem="embeddings", resize="free", least=32
    ),
    "focalnet": replace(_SWIN, blocks="encoder.stages", inside="layers", resize="free"),
    "gemma3n_vision": Rule(),
    "granite_docling_vision": Rule(takes="picture with fine", blocks="encoder.layers", maps="tokens", resize="fixed"),
    "hgnet_v2": replace(_PYRAMID, last="feature_maps", blocks="encoder.stages", stem="embedder"),
    "hiera": Rule(
        pooling=("pooler",),
        blocks="encoder.stages",
        maps="hiera",
        stride=4,
        growth=2,
        resize="fixed",
        forced={"mask_ratio": 0.0},
    ),
    "idefics3_vision": Rule(takes="picture", blocks="encoder.layers", maps="tokens", resize="fixed"),
    "ijepa": replace(_VIT, pooling=("mean",), optional_pooler=True),
    "internvl_vision": replace(_PLAIN, resize="free", pooling=("cls", "mean")),
    "levit": Rule(
        pooling=("pooler",),
        blocks="encoder.stages",
        inside="layers",
        maps="tokens",
        growth=2,
        rounding="ceil",
        resize="fixed",
    ),
    "lw_detr_vit": replace(_WINDOWS, divisor=("patch_size", "num_windows_side")),
    "maskformer-swin": _SWIN,
    "mlcd": replace(_CLIP_VISION, resize="free"),
    "mlcd_vision_model": replace(_CLIP_VISION, resize="free"),
    "mobilenet_v1": Rule(pooling=("pooler",), blocks="layer", maps="nchw", stem="conv_stem", least=32),
    "mobilenet_v2": Rule(pooling=("pooler",), blocks="layer", maps="nchw", stem="conv_stem", least=32),
    "mobilevit": Rule(pooling=("pooler",), blocks="encoder.layer", maps="nchw", stem="conv_stem", least=32),
    "mobilevitv2": Rule(pooling=("pooler",), blocks="encoder.layer", maps="nchw", stem="conv_stem", least=32),
    "pixio": replace(_DINOV2, pooling=("pooler", "cls", "mean"), blocks="layers"),
    "pixtral": Rule(takes="picture with size", blocks="transformer.layers", maps="tokens", divisor=_PATCH),
    "poolformer": replace(_PYRAMID, blocks="encoder.block"),
    "pp_lcnet": _LCNET,
    "pp_lcnet_v3": _LCNET,
    "pp_lcnet_v4": _LCNET,
    "pvt": Rule(pooling=("mean", "cls"), blocks="encoder.block", maps="tokens", stride=4, growth=2, resize="fixed"),
    "pvt_v2": Rule(blocks="encoder.layers", maps="tokens", stride=4, growth=2, rounding="ceil", least=32),
    "qianfan_ocr_vision": replace(_PLAIN, resize="free", pooling=("cls", "mean"), blocks="layers"),
    "radio": Rule(pooling=("mean",), blocks="encoder.layer", maps="tokens", divisor=_PATCH),
    "regnet": _CONV,
    "resnet": _CONV,
    "rf_detr_dinov2": replace(_WINDOWS, divisor=("patch_size", "num_windows")),
    "rt_detr_resnet": replace(_PYRAMID, last="feature_maps", blocks="encoder.stages", stem="embedder.embedder"),
    "sam2_hiera_det_model": replace(_SAM2, blocks="blocks"),
    "sam2_vision_model": _SAM2,
    "sam3_vision_model": Rule(blocks="backbone.layers", maps="nhwc", stride=14, size=(1008, 1008), resize="fixed"),
    "sam3_vit_model": Rule(blocks="layers", maps="nhwc", resize="fixed"),
    "sam_hq_vision_model": _SAM,
    "sam_vision_model": _SAM,
    "sapiens2": _DINOV3,
    "segformer": Rule(blocks="stages", maps="nchw", forced={"reshape_last_stage": True}, least=32),
    "siglip_vision_model": _SIGLIP_VISION,
    "smolvlm_vision": Rule(takes="picture", blocks="encoder.layers", maps="tokens", resize="fixed"),
    "swiftformer": replace(_PYRAMID, blocks="encoder.network"),
    "swin": replace(_SWIN, windows="window_size"),
    "swinv2": _SWIN,
    "textnet": replace(_CONV, pooling=("mean",), stem="stem"),
    "tipsv2_vision_model": replace(_DINOV2, pooling=("pooler", "cls", "mean")),
    "uvdoc_backbone": replace(
        _PYRAMID,
        last="feature_maps",
        blocks=("resnet.resnet_down.0", "resnet.resnet_down.1", "bridge.bridge.5"),
    ),
    "vit": _VIT,
    "vit_mae": Rule(
        takes="picture in order",
        pooling=("cls", "mean"),
        blocks="layers",
        maps="tokens",
        resize="fixed",
        forced={"mask_ratio": 0.0},
    ),
    "vit_msn": replace(_VIT, pooling=("cls", "mean"), optional_pooler=False),
    "vitdet": Rule(blocks="encoder.layer", maps="nchw", resize="fixed"),
    "vitpose_backbone": replace(_PLAIN, last="feature_maps"),
}
