"""Model types that cannot be served, each with its reason."""

from __future__ import annotations

__all__ = ["UNSERVED"]

UNSERVED: dict[str, str] = {
    **dict.fromkeys(
        (
            "edgetam",
            "edgetam_video",
            "sam",
            "sam2",
            "sam2_video",
            "sam3_tracker",
            "sam3_tracker_video",
            "sam3_video",
            "sam_hq",
        ),
        "it asks for points, boxes or a session beside the picture; name its encoder, such as 'sam2_vision_model'",
    ),
    **dict.fromkeys(("efficientloftr", "lightglue", "superglue"), "it compares two pictures, and is no encoder of one"),
    **dict.fromkeys(
        ("omdet-turbo", "oneformer", "grounding-dino", "mm-grounding-dino", "sam3", "sam3_lite_text"),
        "it takes a text beside the picture, and is no encoder of one",
    ),
    "dinat": "it needs the library natten, which zoo does not install",
    "pe_audio_video_encoder": "it takes a clip and its sound at once",
    "seggpt": "it asks for a prompt picture and its mask beside the picture",
    "timm_wrapper": "it holds a timm model; use 'timm:' and that model's name",
    "timm_backbone": "it holds a timm model; use 'timm:' and that model's name",
    "vision-encoder-decoder": "it is made of two models; name its encoder instead",
    "vision-text-dual-encoder": "it is made of two models; name one of them instead",
    "encoder-decoder": "it is made of two models; name its encoder instead",
    "speech-encoder-decoder": "it is made of two models; name its encoder instead",
}
"""Model type to the reason why it cannot be served."""
