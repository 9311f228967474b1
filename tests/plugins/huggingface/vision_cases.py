"""Small configs of the vision types, and where the library itself holds what our backbones give."""

from dataclasses import dataclass
from typing import Any

__all__ = ["CASES", "QUICK", "Case"]


@dataclass(frozen=True)
class Case:
    """One type.

    Args:
        fields: Of its config.
        pooled: ``pooler``, ``cls``, ``mean`` (of tokens without prefix) or ``space``, read from the library's output.
        maps: ``states`` (the library's hidden states), ``backbone`` (AutoBackbone's maps before its norms), ``hooks``
            (none of both: the outputs of the modules that the spec names), or empty.
        size: Height and width of the test picture.
        other: Another size that it takes; None if it takes one only.
        prefix: Number of tokens in front of the grid.
        indices: Index among the library's hidden states of each stage's map.
    """

    fields: dict[str, Any]
    pooled: str = "cls"
    maps: str = "states"
    size: tuple[int, int] = (32, 32)
    other: tuple[int, int] | None = None
    prefix: int = 0
    indices: tuple[int, ...] = (1, 2, 3, 4)


_WIDTHS = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
_VIT = {**_WIDTHS, "intermediate_size": 64, "image_size": 32, "patch_size": 8}
_DINO = {**_WIDTHS, "image_size": 32, "patch_size": 8}
_CONV = {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]}
_CONVNEXT = {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]}
_SWIN = {"image_size": 64, "embed_dim": 12, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 3, 4], "window_size": 2}
_PVT = {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]}
_SAM = {
    **_WIDTHS,
    "mlp_dim": 64,
    "image_size": 64,
    "patch_size": 8,
    "window_size": 2,
    "output_channels": 16,
    "global_attn_indexes": [1, 3],
}
_WIDE = (64, 96)

CASES: dict[str, Case] = {
    "aimv2_vision_model": Case(_VIT, "pooler"),
    "beit": Case(_VIT, "pooler", prefix=1),
    "bit": Case(
        {"embedding_size": 8, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 1, 1], "num_groups": 4},
        "pooler",
        size=_WIDE,
        other=(96, 64),
    ),
    "chinese_clip_vision_model": Case(_VIT, "pooler", prefix=1, other=(48, 32)),
    "clip_vision_model": Case(_VIT, "pooler", prefix=1, other=(48, 32)),
    "conditional_detr": Case({"d_model": 32, "encoder_layers": 1, "decoder_layers": 1}, "encoder", "hooks", size=_WIDE),
    "convnext": Case(_CONVNEXT, "pooler", size=_WIDE, other=(96, 64)),
    "convnextv2": Case(_CONVNEXT, "pooler", size=_WIDE, other=(96, 64)),
    "cvt": Case(
        {"embed_dim": [8, 16, 24], "num_heads": [1, 2, 3], "depth": [1, 2, 3]},
        "space",
        size=_WIDE,
        other=(96, 64),
        indices=(0, 1, 2),
    ),
    "dab-detr": Case({"hidden_size": 32, "encoder_layers": 1, "decoder_layers": 1}, "encoder", "hooks", size=_WIDE),
    "data2vec-vision": Case(_VIT, "cls", prefix=1),
    "deformable_detr": Case({"d_model": 32, "encoder_layers": 1, "decoder_layers": 1}, "encoder", "hooks", size=_WIDE),
    "deit": Case(_VIT, "cls", prefix=2, other=(48, 32)),
    "detr": Case({"d_model": 32, "encoder_layers": 1, "decoder_layers": 1}, "encoder", "hooks", size=_WIDE),
    "dinov2": Case(_DINO, "cls", "backbone", prefix=1, other=(48, 32)),
    "dinov2_with_registers": Case({**_DINO, "num_register_tokens": 3}, "cls", "backbone", prefix=4, other=(48, 32)),
    "dinov3_convnext": Case(_CONVNEXT, "pooler", "hooks", size=_WIDE, prefix=1),
    "dinov3_vit": Case({**_VIT, "num_register_tokens": 2}, "pooler", prefix=3, other=(48, 32)),
    "donut-swin": Case(_SWIN, "pooler", "swin", size=_WIDE),
    "dpt": Case({**_VIT, "backbone_out_indices": [0, 1, 2, 3]}, "cls", prefix=1),
    "efficientnet": Case(
        {"width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 320, "image_size": 64},
        "pooler",
        size=_WIDE,
        indices=(1, 2, 3, 5, 7),
    ),
    "focalnet": Case(
        {"image_size": 64, "embed_dim": 12, "hidden_sizes": [12, 24, 48, 96], "depths": [1, 1, 2, 1]},
        "pooler",
        "hooks",
        size=_WIDE,
    ),
    "glpn": Case(_PVT, "space", size=_WIDE, indices=(0, 1, 2, 3)),
    "granite_docling_vision": Case({**_VIT, "patch_size": 4, "image_size": 64}, "mean", size=(64, 64)),
    "hgnet_v2": Case({}, "", "backbone", size=_WIDE),
    "hiera": Case(
        {"embed_dim": 8, "image_size": [64, 64], "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]},
        "pooler",
        "rhs",
        size=(64, 64),
    ),
    "idefics3_vision": Case(_VIT, "mean"),
    "ijepa": Case(_VIT, "mean", other=(48, 32)),
    "internvl_vision": Case({**_VIT, "image_size": [32, 32], "patch_size": [8, 8]}, "cls", prefix=1),
    "levit": Case(
        {
            "image_size": 64,
            "hidden_sizes": [16, 24, 32],
            "num_attention_heads": [1, 2, 3],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
        "pooler",
        "hooks",
        size=(64, 64),
    ),
    "lw_detr_vit": Case({**_DINO, "image_size": 64, "num_windows": 4}, "", "backbone", size=(64, 64)),
    "maskformer-swin": Case(_SWIN, "pooler", "backbone", size=_WIDE),
    "mlcd": Case({**_VIT}, "pooler", prefix=1),
    "mlcd_vision_model": Case({**_VIT}, "pooler", prefix=1),
    "mobilenet_v1": Case({"depth_multiplier": 0.25}, "pooler", size=_WIDE, indices=(1, 5, 9, 21, 25)),
    "mobilenet_v2": Case({"depth_multiplier": 0.25}, "pooler", size=_WIDE, indices=(-1, 1, 4, 11, 15)),
    "mobilevit": Case(
        {
            "hidden_sizes": [16, 16, 16],
            "neck_hidden_sizes": [8, 8, 8, 16, 16, 16, 24],
            "image_size": 64,
            "num_attention_heads": 2,
        },
        "pooler",
        size=_WIDE,
        indices=(0, 1, 2, 3, 4),
    ),
    "mobilevitv2": Case({"width_multiplier": 0.25, "image_size": 64}, "pooler", size=_WIDE, indices=(0, 1, 2, 3, 4)),
    "pixio": Case({**_DINO, "n_cls_tokens": 2}, "pooler", prefix=2, other=(48, 32)),
    "pixtral": Case({**_VIT}, "mean", other=(48, 32)),
    "poolformer": Case(
        {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]}, "space", size=_WIDE, indices=(0, 1, 2, 3)
    ),
    "pp_lcnet": Case({"scale": 0.25}, "", "backbone", size=_WIDE),
    "pp_lcnet_v3": Case({"scale": 0.25}, "", "backbone", size=_WIDE),
    "pp_lcnet_v4": Case({}, "", "", size=_WIDE),
    "pvt": Case({**_PVT, "image_size": 64}, "mean", "hooks", size=(64, 64), prefix=1),
    "pvt_v2": Case({**_PVT, "image_size": 64}, "space", size=_WIDE, indices=(0, 1, 2, 3)),
    "qianfan_ocr_vision": Case({**_VIT, "image_size": [32, 32], "patch_size": [8, 8]}, "cls", prefix=1),
    "radio": Case(_DINO, "mean", "hooks", prefix=10),
    "regnet": Case({**_CONV, "groups_width": 4}, "pooler", size=_WIDE, indices=(0, 1, 2, 3, 4)),
    "resnet": Case({**_CONV, "layer_type": "basic"}, "pooler", size=_WIDE),
    "rf_detr_dinov2": Case({**_DINO, "num_windows": 2}, "", "backbone"),
    "rt_detr": Case({"num_queries": 10}, "last map", "hooks", size=_WIDE),
    "rt_detr_resnet": Case({**_CONV, "layer_type": "basic"}, "", "backbone", size=_WIDE),
    "sam2_hiera_det_model": Case(
        {
            "hidden_size": 16,
            "embed_dim_per_stage": [16, 32, 64, 128],
            "blocks_per_stage": [1, 2, 2, 1],
            "image_size": [128, 128],
            "global_attention_blocks": [4],
            "window_size_per_stage": [8, 4, 4, 2],
            "num_attention_heads_per_stage": [1, 2, 4, 8],
        },
        "hwc",
        "hooks",
        size=(128, 128),
    ),
    "sam3_vit_model": Case({**_VIT, "window_size": 2, "global_attn_indexes": [1, 3]}, "mean", "nhwc"),
    "sam_hq_vision_model": Case(_SAM, "space", "nhwc", size=(64, 64)),
    "sam_vision_model": Case(_SAM, "space", "nhwc", size=(64, 64)),
    "sapiens2": Case(_VIT, "pooler", prefix=9),
    "segformer": Case(_PVT, "space", size=_WIDE, indices=(0, 1, 2, 3)),
    "siglip_vision_model": Case(_VIT, "pooler", other=(48, 32)),
    "smolvlm_vision": Case(_VIT, "mean"),
    "swiftformer": Case(
        {"depths": [1, 1, 1, 1], "embed_dims": [8, 12, 16, 20]}, "space", size=_WIDE, indices=(1, 3, 5, 7)
    ),
    "swin": Case(_SWIN, "pooler", "swin", size=_WIDE),
    "swin2sr": Case(
        {"image_size": 16, "embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2], "window_size": 8},
        "space",
        "hooks",
        size=(16, 24),
    ),
    "swinv2": Case(_SWIN, "pooler", "swin", size=_WIDE),
    "table-transformer": Case(
        {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1}, "encoder", "hooks", size=_WIDE
    ),
    "textnet": Case(
        {"hidden_sizes": [8, 8, 12, 16, 20], "stem_out_channels": 8}, "space", size=_WIDE, indices=(0, 1, 2, 3, 4)
    ),
    "tipsv2_vision_model": Case({**_DINO}, "pooler", "backbone", prefix=2),
    "uvdoc_backbone": Case({}, "", "hooks", size=_WIDE),
    "vit": Case(_VIT, "cls", prefix=1, other=(48, 32)),
    "vit_mae": Case({**_VIT}, "cls", "states", prefix=1),
    "vit_msn": Case(_VIT, "cls", prefix=1, other=(48, 32)),
    "vitdet": Case({**_DINO, "residual_block_indices": [], "window_block_indices": [0, 2], "window_size": 2}, "space"),
    "vitpose_backbone": Case({**_DINO, "image_size": [32, 32], "patch_size": [8, 8]}, "", "states"),
    "yolos": Case({**_VIT, "image_size": [32, 48], "num_detection_tokens": 5}, "cls", size=(32, 48), prefix=1),
}

QUICK = frozenset(
    {
        *("beit", "clip_vision_model", "convnext", "dinov2", "hiera", "levit", "mobilenet_v2", "pixtral"),
        *("pvt", "resnet", "segformer", "swin", "vit", "vitdet"),
    }
)
"""Types whose tests are quick enough for every run."""
