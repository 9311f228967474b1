"""Fields of the configs that transformers cannot build, or not run, from their own defaults.

For bare types only: what a checkpoint's config says stands. Values are those that the type's checkpoints were published
with, as far as they are known, and else of its next of kin.
"""

from __future__ import annotations

from typing import Any

__all__ = ["MENDED", "MENDED_PARTS"]

_GLM_ROPE = {
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [8, 12, 12],
    }
}
_WIDE_HEADS = {"head_dim": 128}
_EVERY_FOURTH = [2, 6, 10, 14, 18, 21]

MENDED: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}},
    },
    "dbrx": {"attn_config": {"kv_n_heads": 8, "clip_qkv": 8, "rope_theta": 500000.0}},
    "deepseek_ocr2_text": {
        **{"vocab_size": 129280, "hidden_size": 1280, "intermediate_size": 6848, "num_hidden_layers": 12},
        **{"num_attention_heads": 10, "num_key_value_heads": 10, "moe_intermediate_size": 896},
        **{"num_experts_per_tok": 6, "max_position_embeddings": 8192},
        "mlp_layer_types": ["dense"] + ["sparse"] * 11,
    },
    "deepseek_ocr2_vision": {
        "encoder_config": {
            **{"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
            "num_key_value_heads": 2,
        }
    },
    "deepseek_v2": {"num_experts_per_tok": 6, "moe_intermediate_size": 1408},
    "dots1": {"n_routed_experts": 128, "num_experts_per_tok": 6, "n_shared_experts": 2, "first_k_dense_replace": 1},
    "edgetam_vision_model": {"backbone_channel_list": [1024, 512, 256, 64]},
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "glm4v_moe_text": {**_WIDE_HEADS, **_GLM_ROPE},
    "glm4v_text": _GLM_ROPE,
    "glm_image_text": _GLM_ROPE,
    "hunyuan_v1_dense": _WIDE_HEADS,
    "hunyuan_v1_moe": _WIDE_HEADS,
    "hunyuan_vl_text": {
        **_WIDE_HEADS,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [16, 16, 16, 16]},
    },
    "lfm2_moe": {
        "num_hidden_layers": 24,
        "layer_types": ["full_attention" if number in _EVERY_FOURTH else "conv" for number in range(24)],
    },
    "ministral": _WIDE_HEADS,
    "nemotron": {"num_key_value_heads": 8},
    "qwen4_exp_text": {
        **{"indexer_n_heads": 16, "indexer_kv_heads": 1, "indexer_head_dim": 256, "indexer_budget": 2048},
        "indexer_compress_ratio": 16,
    },
    "step3p5": {"sliding_window": 512},
    "xmod": {"default_language": "en_XX"},
}
"""Model type to fields of its config."""

MENDED_PARTS: dict[tuple[str, str], dict[str, Any]] = {
    ("aya_vision", "vision"): {"num_attention_heads": 16},
}
"""Type and part of a model made of others to fields of that part's config, where the whole's default is at fault."""
