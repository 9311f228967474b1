"""The vision towers of language models, which take rows of patches with their grids: model type to rule.

Pictures are packed as the types' own image processors do it. Tokens are those of the tower, row by row, before what
merges them for the language model; ``merged`` pools what comes after it.
"""

from __future__ import annotations

from dataclasses import replace

from zoo_huggingface.rules.packing import Packing
from zoo_huggingface.rules.rule import Rule

__all__ = ["PACKED", "QWEN_RULE", "STRIP_RULE", "WINDOWED_RULE"]

_QWEN = Packing()
_BLOCKS = ("patch_size", "spatial_merge_size")
QWEN_RULE = Rule(
    takes="packed", packing=_QWEN, pooling=("mean", "merged"), blocks="blocks", maps="packed", divisor=_BLOCKS
)
_DEEPSTACK = replace(QWEN_RULE, beside=("deepstack_merger_list",))
_GLM = replace(QWEN_RULE, merger="merger")
WINDOWED_RULE = replace(QWEN_RULE, packing=replace(_QWEN, windowed=("window_size",)), state="packed")
_MUSE = Rule(
    takes="packed",
    packing=Packing(
        order="yixj",
        values="tcuv",
        argument="pixel_values",
        merge="merge_size",
        time="patch_temporal",
        windowed=("pos_emb_height", "patch_size"),
    ),
    blocks="layers",
    maps="packed",
    divisor=("patch_size", "merge_size"),
)
STRIP_RULE = Rule(
    takes="packed",
    packing=Packing(
        order="yixj", shape="strip", argument="pixel_values", extra=(("target_sizes", "sides"),), merge=2, values="cuv"
    ),
    blocks="encoder.layers",
    divisor=("patch_size", 2),
)

PACKED: dict[str, Rule] = {
    "cohere_compass_vision": _DEEPSTACK,
    "cosmos3_edge_vision": Rule(
        takes="packed",
        packing=Packing(values="uvc", argument="pixel_values"),
        blocks="encoder.layers",
        maps="packed",
        divisor=_BLOCKS,
    ),
    "exaone4_5_vision": WINDOWED_RULE,
    "gemma4_vision": Rule(
        takes="packed",
        packing=Packing(
            order="yixj",
            values="uvc",
            batched=True,
            argument="pixel_values",
            extra=(("pixel_position_ids", "positions"),),
            merge="pooling_kernel_size",
        ),
        blocks="encoder.layers",
        maps="packed",
        divisor=("patch_size", "pooling_kernel_size"),
    ),
    "glm4v_moe_vision": _GLM,
    "glm4v_vision": _GLM,
    "glm5_next_vision": _GLM,
    "glm_image_vision": replace(QWEN_RULE, packing=Packing(values="cuv", argument="pixel_values"), pooling=("mean",)),
    "glm_ocr_vision": _GLM,
    "hunyuan_vl_vision": replace(
        QWEN_RULE, packing=Packing(order="yixj", argument="pixel_values"), blocks="layers", pooling=("mean",)
    ),
    "inkling2_vision": Rule(
        takes="packed",
        packing=Packing(
            shape="block",
            values="cuv",
            argument="pixel_values",
            extra=(("image_grid_thw", "grid of blocks"),),
            prefix=1,
        ),
        pooling=("mean", "cls", "merged"),
        blocks="layers",
        maps="packed",
        divisor=_BLOCKS,
    ),
    "kimi_k25_vision": Rule(
        takes="packed",
        packing=Packing(order="yixj", values="cuv", shape="patch", argument="pixel_values", merge="merge_kernel_size"),
        pooling=("mean", "merged"),
        blocks="layers",
        maps="packed",
        divisor=("patch_size", "merge_kernel_size"),
    ),
    "lfm3_vl_vision": replace(QWEN_RULE, packing=Packing(argument="pixel_values"), pooling=("mean",), blocks="layers"),
    "minicpm_ocr_vision": STRIP_RULE,
    "minicpmv4_7_vision": STRIP_RULE,
    "muse_glimmer_vision": _MUSE,
    "muse_spark_vision": _MUSE,
    "qwen2_5_vl_vision": WINDOWED_RULE,
    "qwen3_5_moe_vision": QWEN_RULE,
    "qwen3_5_vision": QWEN_RULE,
    "qwen3_vl_moe_vision": _DEEPSTACK,
    "qwen3_vl_vision": _DEEPSTACK,
    "qwen4_exp_vision": QWEN_RULE,
    "siglip2_vision_model": Rule(
        takes="packed",
        packing=Packing(
            order="yixj",
            values="uvc",
            batched=True,
            argument="pixel_values",
            extra=(("pixel_attention_mask", "mask"), ("spatial_shapes", "sides")),
            merge=1,
        ),
        pooling=("pooler", "mean"),
        blocks="encoder.layers",
        maps="packed",
        divisor=("patch_size",),
        unpooled={"vision_use_head": False},
    ),
    "video_llama_3_vision": Rule(
        takes="packed",
        packing=Packing(
            argument="pixel_values",
            values="cuv",
            extra=(("grid_thw", "grid"), ("merge_sizes", "merges")),
            merge=2,
        ),
        blocks="encoder.layers",
        maps="packed",
        divisor=("patch_size", 2),
    ),
}
