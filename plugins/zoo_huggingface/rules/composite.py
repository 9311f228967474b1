"""Models made of others: model type to the config field of each part, which is a model type with a rule of its own.

``hf:org/name#vision`` then is the vision tower of that checkpoint, as if it had been published alone.
"""

from __future__ import annotations

__all__ = ["COMPOSITES"]


def _parts(*names: str) -> dict[str, str]:
    return {name: f"{name}_config" for name in names}


_ENCODER_OF_SOUND = {"audio": "encoder_config"}

COMPOSITES: dict[str, dict[str, str]] = {
    **dict.fromkeys(
        (
            *("aria", "aya_vision", "blip-2", "cohere2_vision", "cohere_compass", "cosmos3_edge", "cosmos3_omni"),
            *(
                "deepseek_ocr2",
                "florence2",
                "idefics2",
                "kosmos-2.5",
                "molmo2",
                "paddleocr_vl",
                "step3p7",
                "unlimited_ocr",
            ),
            *("deepseek_vl", "deepseek_vl_hybrid", "exaone4_5", "fast_vlm", "gemma3", "gemma3n", "glm46v", "glm4v"),
            *("glm4v_moe", "glm5_next", "glm_image", "glm_ocr", "glmga", "got_ocr2", "granite_docling"),
            *("hunyuan_vl", "hyperclovax_vision_v2", "idefics3", "inkling2", "instructblip", "instructblipvideo"),
            *("internvl", "janus", "kimi_k25", "lfm2_vl", "lfm3_vl", "lighton_ocr", "llava", "llava_next"),
            *(
                "llava_next_video",
                "llava_onevision",
                "minicpm_ocr",
                "minicpmv4_6",
                "minicpmv4_7",
                "minimax_m3_vl",
                "mistral3",
                "mistral_large4",
            ),
            *("muse_glimmer", "ovis2", "paligemma", "perception_lm", "qianfan_ocr", "qwen2_5_vl", "qwen2_vl"),
            *("sam3", "sam3_lite_text"),
            *("qwen3_5", "qwen3_5_moe", "qwen3_vl", "qwen3_vl_moe", "qwen4_exp", "smolvlm", "video_llama_3"),
            *("video_llava", "vipllava"),
        ),
        _parts("vision", "text"),
    ),
    **dict.fromkeys(
        (
            *(
                "diffusion_gemma",
                "ernie4_5_vl_moe",
                "edgetam",
                "edgetam_video",
                "git",
                "granite4_vision",
                "kosmos-2",
                "modernvbert",
            ),
            *("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker", "sam", "sam2", "sam2_video"),
            *("sam3_tracker", "sam3_tracker_video", "sam_hq", "siglip2", "t5gemma2_encoder", "ultravbert"),
            *("llama4", "mllama", "pix2struct", "videoprism"),
        ),
        _parts("vision"),
    ),
    **dict.fromkeys(
        (
            *("dots3_note", "embedding_gemma2", "fuyu", "gemma4_unified", "inkling_mm_model", "nemo_speechlm"),
            *("vibevoice", "vibevoice_asr"),
        ),
        _parts("text"),
    ),
    **dict.fromkeys(
        (
            *("audioflamingo3", "fun_asr_nano", "glmasr", "moss_transcribe_diarize", "musicflamingo", "pe_audio"),
            *("qwen2_audio", "qwen3_asr", "voxtral", "voxtral_realtime"),
        ),
        _parts("audio", "text"),
    ),
    **dict.fromkeys(("granite_speech", "granite_speech_plus"), _ENCODER_OF_SOUND | _parts("text")),
    **dict.fromkeys(("gemma4", "muse_spark"), _parts("vision", "text", "audio")),
    **dict.fromkeys(
        (
            *("canary", "cohere_asr", "granite_speech5_ctc", "lasr_ctc", "moonshine_streaming", "nemotron3_5_asr"),
            *("nemotron_asr_streaming", "parakeet_ctc", "parakeet_rnnt", "parakeet_tdt"),
        ),
        _ENCODER_OF_SOUND,
    ),
    "phi4_multimodal": _parts("vision", "audio"),
    "nemotron3_diarization": _parts("audio"),
    "pe_video": {"vision": "video_config", "text": "text_config"},
}
"""Model type to part to the field of its config; a type may also have parts in ``PARTS``."""
