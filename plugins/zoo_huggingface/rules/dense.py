"""Models for dense prediction and detection: model type to rule. Encoders are served; decoders are cut off."""

from __future__ import annotations

from dataclasses import replace

from zoo_huggingface.rules.rule import Rule

__all__ = ["DENSE"]

_LAYERS = ("layer1", "layer2", "layer3", "layer4")
_DETR = Rule(
    takes="picture with mask",
    last="@encoder",
    blocks=tuple(f"backbone.model.{name}" for name in _LAYERS),
    maps="nchw",
    stride=32,
    rounding="ceil",
    least=32,
)
_OLD_DETR = replace(_DETR, blocks=tuple(f"backbone.conv_encoder.model.{name}" for name in _LAYERS))
_RT_DETR = Rule(
    takes="picture with mask",
    last="encoder_last_hidden_state",
    blocks="backbone.model.encoder.stages",
    maps="nchw",
    stem="backbone.model.embedder",
    divisor=32,
)

_INTRACLASS = {
    "reduce_channel": [1, 1, 0],
    "return_channel": [1, 1, 0],
    **{
        f"{kind}_{ratio}ratio": [
            [side if down else 1, side if across else 1],
            1,
            [side // 2 * down, side // 2 * across],
        ]
        for kind, down, across in (
            ("vertical_long_to_small_conv", 1, 0),
            ("horizontal_small_to_long_conv", 0, 1),
            ("symmetric_conv_long", 1, 1),
        )
        for ratio, side in (("long", 7), ("mid", 5), ("short", 3))
    },
}
"""Kernel, stride and padding of the convolutions of PP-OCR's neck, which the bare config leaves out."""

DENSE: dict[str, Rule] = {
    "conditional_detr": _DETR,
    "d_fine": _RT_DETR,
    "dab-detr": replace(_DETR, blocks=tuple(f"backbone.conv_encoder.model._backbone.{name}" for name in _LAYERS)),
    "deformable_detr": replace(_DETR, stride=None, maps="nchw"),
    "deimv2": replace(_RT_DETR, blocks="conv_encoder.model.encoder.stages", stem="conv_encoder.model.embedder"),
    "depth_pro": Rule(size=(1536, 1536), resize="fixed"),
    "detr": _DETR,
    "glpn": Rule(blocks="encoder.layer_norm", maps="tokens", stride=4, growth=2, rounding="ceil", least=32),
    "lw_detr": Rule(
        takes="picture with mask",
        last="@backbone",
        size=(640, 640),
        resize="fixed",
        defaults={"projector_scale_factors": [1.0]},
    ),
    "mask2former": Rule(last="pixel_decoder_last_hidden_state", takes="picture with mask", divisor=32),
    "maskformer": Rule(last="pixel_decoder_last_hidden_state", takes="picture with mask", divisor=32),
    "mgp-str": Rule(
        takes="picture",
        pooling=("cls", "mean"),
        model="MgpstrModel",
        blocks="encoder.blocks",
        maps="tokens",
        size=(32, 128),
        resize="fixed",
    ),
    "pp_doclayout_v3": _RT_DETR,
    "pp_doclayout_v4": _RT_DETR,
    **dict.fromkeys(
        ("pp_ocrv5_mobile_rec", "pp_ocrv5_server_rec", "pp_ocrv6_small_rec", "pp_ocrv6_tiny_rec"), Rule(resize="fixed")
    ),
    "pp_ocrv6_medium_det": Rule(
        divisor=32,
        defaults={
            "intraclass_block_config": _INTRACLASS,
            "scale_factor_list": [1, 2, 4, 8],
            "kernel_list": [3, 2, 2],
            "backbone_config": {
                "model_type": "hgnet_v2",
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
            },
        },
    ),
    "pp_ocrv6_small_det": Rule(
        divisor=32,
        defaults={
            "layer_list_out_channels": [96, 96, 192, 384],
            "backbone_config": {
                "model_type": "pp_lcnet_v4",
                "block_configs": [
                    [[3, 96, 96, 1, True]],
                    [[3, 96, 96, 2, False]],
                    [[3, 96, 192, 2, True]],
                    [[3, 192, 384, 2, True]],
                ],
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
            },
        },
    ),
    "rf_detr": Rule(
        takes="picture with mask",
        last="backbone_features",
        size=(560, 560),
        resize="fixed",
    ),
    "rt_detr": _RT_DETR,
    "rt_detr_v2": _RT_DETR,
    "swin2sr": Rule(blocks="encoder.stages", maps="tokens", divisor=("window_size",)),
    "table-transformer": _OLD_DETR,
    "uvdoc": Rule(
        last="@backbone.bridge",
        size=(712, 488),
        resize="fixed",
        defaults={
            "backbone_config": {
                "model_type": "uvdoc_backbone",
                "out_features": ["stage1", "stage2", "stage3", "stage4", "stage5", "stage6"],
            }
        },
    ),
    "yolos": Rule(
        pooling=("cls", "mean"),
        blocks="encoder.layer",
        maps="tokens",
        after="num_detection_tokens",
        resize="fixed",
    ),
}
