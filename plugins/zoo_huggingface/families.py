"""Loose names that people type, and the model type of transformers that they most likely mean.

A model type has no weights of its own: weights come with a hub id or a local folder. So these are names of types, not
of checkpoints. Version 1, for transformers 5.23; what the installed version or zoo does not serve is left out.
"""

from __future__ import annotations

__all__ = ["FAMILIES"]

FAMILIES = {
    "aimv2_vision": "aimv2_vision_model",
    "ast": "audio-spectrogram-transformer",
    "audio_spectrogram": "audio-spectrogram-transformer",
    "clip_text": "clip_text_model",
    "clip_vision": "clip_vision_model",
    "deberta_v3": "deberta-v2",
    "dino": "vit",
    "dinov2_reg": "dinov2_with_registers",
    "dinov2_registers": "dinov2_with_registers",
    "dinov3": "dinov3_vit",
    "donut": "donut-swin",
    "gpt": "gpt2",
    "hgnet": "hgnet_v2",
    "hgnetv2": "hgnet_v2",
    "i_jepa": "ijepa",
    "mae": "vit_mae",
    "metaclip": "metaclip_2",
    "metaclip2": "metaclip_2",
    "minilm": "bert",
    "mit": "segformer",
    "mobilenet": "mobilenet_v2",
    "mobilenetv1": "mobilenet_v1",
    "mobilenetv2": "mobilenet_v2",
    "msn": "vit_msn",
    "pvt": "pvt_v2",
    "sam2_vision": "sam2_vision_model",
    "sam_vision": "sam_vision_model",
    "sapiens": "sapiens2",
    "siglip2_vision": "siglip2_vision_model",
    "siglip_text": "siglip_text_model",
    "siglip_vision": "siglip_vision_model",
    "swin_v2": "swinv2",
    "v_jepa": "vjepa2",
    "vjepa": "vjepa2",
    "wav2vec": "wav2vec2",
    "xlmr": "xlm-roberta",
    "xlm_r": "xlm-roberta",
}
