"""Model types that cannot be served, each with its reason."""

from __future__ import annotations

__all__ = ["UNSERVED"]

UNSERVED: dict[str, str] = {
    **dict.fromkeys(("efficientloftr", "lightglue", "superglue"), "it compares two pictures, and is no encoder of one"),
    **dict.fromkeys(
        (
            *("bridgetower", "grounding-dino", "layoutlmv2", "lxmert", "mm-grounding-dino", "omdet-turbo", "oneformer"),
            *("tvp", "udop", "vilt", "visual_bert"),
        ),
        "it takes a text and a picture at once, and is an encoder of neither alone",
    ),
    **dict.fromkeys(
        ("chameleon", "glm_image_vqmodel"), "it turns pictures into codes for a language model, and not into features"
    ),
    **dict.fromkeys(
        ("decision_transformer", "pi0"), "it takes states and actions, and is no encoder of pictures, texts or sounds"
    ),
    "blip_2_qformer": "it takes the vectors of a vision tower, and is no encoder of pictures",
    "dinat": "it needs the library natten, which zoo does not install",
    "evolla": "it takes a protein as amino acids and as structure, and is no encoder of pictures, texts or sounds",
    "imagegpt": "it takes the numbers of colour clusters, one for each pixel",
    **dict.fromkeys(("pe_audio_video", "pe_audio_video_encoder"), "it takes a clip and its sound at once"),
    "sam3_video": "it is made of a detector and a tracker; name 'sam3_vision_model'",
    "seggpt": "it asks for a prompt picture and its mask beside the picture",
    "timm_wrapper": "it holds a timm model; use 'timm:' and that model's name",
    "timm_backbone": "it holds a timm model; use 'timm:' and that model's name",
    "vision-encoder-decoder": "it is made of two models; name its encoder instead",
    "vision-text-dual-encoder": "it is made of two models; name one of them instead",
    "encoder-decoder": "it is made of two models; name its encoder instead",
    "speech-encoder-decoder": "it is made of two models; name its encoder instead",
}
"""Model type to the reason why it cannot be served."""
