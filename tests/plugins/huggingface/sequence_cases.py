"""Small configs of the types that take texts and sounds, and what is special about each."""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING

__all__ = ["AUDIO", "DUAL", "QUICK", "TEXTS", "fields_of"]

_SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "model_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers"), 5),
    **dict.fromkeys(
        ("decoder_layers", "num_decoder_layers", "num_attention_heads", "n_head", "n_heads", "num_heads"), 2
    ),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_experts_per_tok"), 2),
    **dict.fromkeys(("intermediate_size", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim", "hidden_dim", "ffn_dim"), 64),
    **dict.fromkeys(("d_kv", "head_dim", "embedding_size"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts"), 4),
    **{"num_key_value_heads": 1, "moe_intermediate_size": 32, "vocab_size": 99, "num_mel_bins": 16},
    **{"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
    **{"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2},
}
"""A type takes those that its config has; what is None there stays so, but the padding token."""

_CONVS = {"conv_dim": [16] * 7}
_MANY_CONVS = {"conv_dim": [16] * 13}
_TWO_KEYS = {"num_key_value_heads": 2}
_ONE_SECOND = {"max_source_positions": 50}
_NARROW = {"subsampling_conv_channels": 16}
_REFORMER = {
    "axial_pos_embds_dim": [16, 16], "axial_pos_shape": [4, 4], "attention_head_size": 16, "feed_forward_size": 64,
    "num_hashes": 1, "lsh_attn_chunk_length": 4, "local_attn_chunk_length": 4, "max_position_embeddings": 16,
    "attn_layers": ["local", "lsh", "local", "lsh"], "num_buckets": 2, "num_hidden_layers": None,
}  # fmt: skip
_OWN: dict[str, dict[str, Any]] = {
    "audio-spectrogram-transformer": {"max_length": 64, "num_mel_bins": 32},
    **dict.fromkeys(
        ("data2vec-audio", "hubert", "unispeech", "unispeech-sat", "wav2vec2", "wav2vec2-conformer", "wavlm"), _CONVS
    ),
    **dict.fromkeys(("diffllama", "nemotron"), _TWO_KEYS),
    "codegen": {"n_head": 4, "rotary_dim": 4},
    "esm": {"vocab_size": 99, "mask_token_id": 32},
    "gemma4_audio": {"num_mel_bins": None, "output_proj_dims": 32},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "num_layers": 4},
    "gptj": {"rotary_dim": 8},
    "lilt": {"hidden_size": 48},
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 16},
    "moonshine": {
        "encoder_num_hidden_layers": 2, "decoder_num_hidden_layers": 1, "encoder_num_attention_heads": 2,
        "decoder_num_attention_heads": 2,
    },
    "muse_spark_audio": {
        "hidden_sizes": [8, 8], "depths": [1, 1], "patch_sizes": [16, 4], "num_hidden_layers": 2, "out_hidden_size": 32
    },
    **dict.fromkeys(("granite_speech5_encoder", "nemotron3_diarization_audio"), _TWO_KEYS),
    **dict.fromkeys(
        (
            *("audioflamingo3_encoder", "moss_transcribe_diarize_audio", "qwen2_audio_encoder", "voxtral_encoder"),
            "whisper",
        ),
        _ONE_SECOND,
    ),
    **dict.fromkeys(("lasr_encoder", "nemotron_asr_streaming_encoder", "parakeet_encoder"), _NARROW),
    "reformer": _REFORMER,
    **dict.fromkeys(("sew", "sew-d"), _MANY_CONVS),
    "speech_to_text": {"input_feat_per_channel": 16, "conv_channels": 32},
    "squeezebert": {"embedding_size": 32},
    "wav2vec2-bert": {"feature_projection_input_dim": 16},
    "xmod": {"languages": ["en_XX", "de_DE"], "default_language": "en_XX"},
}  # fmt: skip


def fields_of(name: str) -> dict[str, Any]:
    """Give the fields of a small config of a type; a field of None in the tables is left out."""
    config = CONFIG_MAPPING[name]().to_dict()
    taken = {
        key: value
        for key, value in _SMALL.items()
        if key in config and (type(config[key]) is int or key == "pad_token_id")
    }
    return {key: value for key, value in (taken | _OWN.get(name, {})).items() if value is not None}


_ENCODERS = (
    *("albert", "bert", "bert-generation", "big_bird", "camembert", "canine", "clip_text_model", "convbert"),
    *("data2vec-text", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "esm", "eurobert", "flaubert"),
    *("fnet", "funnel", "gte", "ibert", "jina_embeddings_v3", "layoutlm", "lilt", "longformer", "luke", "markuplm"),
    *("megatron-bert", "mobilebert", "modernbert", "mpnet", "mra", "neomme", "nomic_bert", "nystromformer"),
    *("reformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "siglip_text_model"),
    *("squeezebert", "tapas", "tipsv2_text_model", "ultrabert", "xlm", "xlm-roberta", "xlm-roberta-xl", "xmod", "yoso"),
)
_OF_TWO = (
    *("bart", "blenderbot", "longt5", "m2m_100", "marian", "mbart", "mt5", "mvp", "nllb-moe", "pegasus", "plbart"),
    *("prophetnet", "switch_transformers", "t5", "umt5"),
)
_DECODERS = (
    *("biogpt", "bloom", "codegen", "ctrl", "falcon", "gemma", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj"),
    *("llama", "mamba", "mistral", "mixtral", "modernbert-decoder", "mpt", "openai-gpt", "opt", "phi", "qwen3", "xglm"),
    "xlnet",
)
TEXTS = (*_ENCODERS, *_OF_TWO, *_DECODERS)
AUDIO = (
    *("audio-spectrogram-transformer", "audioflamingo3_encoder", "data2vec-audio", "fun_asr_nano_encoder"),
    *("gemma4_audio", "glmasr_encoder", "granite_speech5_encoder", "hubert", "lasr_encoder", "moonshine"),
    *("moss_transcribe_diarize_audio", "muse_spark_audio", "nemotron3_diarization_audio"),
    *("nemotron_asr_streaming_encoder", "parakeet_encoder", "qwen2_audio_encoder", "sew", "sew-d", "speech_to_text"),
    *("unispeech", "unispeech-sat", "voxtral_encoder", "voxtral_realtime_encoder", "wav2vec2", "wav2vec2-bert"),
    *("wav2vec2-conformer", "wavlm", "whisper"),
)

QUICK = {
    *("albert", "bert", "clip_text_model", "deberta-v2", "distilbert", "flaubert", "gpt2", "llama", "modernbert"),
    *("mpnet", "roberta", "bart", "t5", "opt", "audio-spectrogram-transformer", "wav2vec2", "whisper"),
    *("parakeet_encoder", "wav2vec2-bert", "clip", "siglip", "chinese_clip"),
}
"""What the quick tests look at."""

_TEXT = {key: _SMALL[key] for key in ("hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")} | {
    "num_hidden_layers": 4, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
_VISION = {
    "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 4, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
_CLIP: dict[str, Any] = {"text_config": _TEXT, "vision_config": _VISION, "projection_dim": 16}
_EFFICIENTNET = {"hidden_dim": 32, "width_coefficient": 0.1, "depth_coefficient": 0.1, "image_size": 64}
_HTSAT = {
    "num_mel_bins": 32, "spec_size": 128, "patch_size": 4, "patch_stride": [4, 4], "patch_embeds_hidden_size": 8,
    "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2], "window_size": 4, "hidden_size": 64,
    "projection_dim": 16,
}  # fmt: skip
_GROUPS = {
    **{key: value for key, value in _VISION.items() if key != "num_hidden_layers"},
    "depths": [1, 1, 1], "num_group_tokens": [4, 2, 0], "num_output_groups": [4, 2, 0],
}  # fmt: skip
_SIGLIP = {"text_config": _TEXT, "vision_config": _VISION}
_MLP_RATIO = {key: value for key, value in _VISION.items() if key != "intermediate_size"}

DUAL: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("aimv2", "chinese_clip", "clip", "clipseg", "metaclip_2", "owlv2", "owlvit", "xclip"), _CLIP),
    "align": {**_CLIP, "vision_config": _EFFICIENTNET},
    "altclip": {**_CLIP, "text_config": {**_TEXT, "project_dim": 32}},
    "blip": {**_CLIP, "text_config": {**_TEXT, "encoder_hidden_size": 32}},
    "clap": {"audio_config": _HTSAT, "text_config": {**_TEXT, "projection_dim": 16}, "projection_dim": 16},
    "flava": {"text_config": _TEXT, "image_config": _VISION, "multimodal_config": _TEXT, "projection_dim": 16},
    "groupvit": {**_CLIP, "vision_config": _GROUPS, "projection_intermediate_dim": 32},
    **dict.fromkeys(("siglip", "siglip2"), _SIGLIP),
    "tipsv2": {"text_config": _TEXT, "vision_config": _MLP_RATIO},
}
"""Dual type to the fields of its config."""
