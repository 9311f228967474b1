"""Vision towers of larger models that ``AutoModel`` does not name: model type to rule, with the class of each."""

from __future__ import annotations

from dataclasses import replace

from zoo_huggingface.rules.packed import QWEN_RULE, WINDOWED_RULE
from zoo_huggingface.rules.packing import Packing
from zoo_huggingface.rules.rule import Rule

__all__ = ["INNER"]

_CLIP = Rule(pooling=("pooler", "mean"), blocks="encoder.layers", maps="tokens", resize="flag")
_INSIDE = replace(_CLIP, blocks="vision_model.encoder.layers")

INNER: dict[str, Rule] = {
    "align_vision_model": Rule(
        pooling=("pooler",), blocks="encoder.blocks", maps="nchw", stem="embeddings", least=32, model="AlignVisionModel"
    ),
    "altclip_vision_model": replace(_CLIP, model="AltCLIPVisionModel"),
    "blip_2_vision_model": replace(_CLIP, model="Blip2VisionModel"),
    "blip_vision_model": replace(_CLIP, model="BlipVisionModel"),
    "clipseg_vision_model": replace(_CLIP, model="CLIPSegVisionModel"),
    "ernie4_5_vl_moe_vision": replace(
        QWEN_RULE,
        packing=Packing(values="cuv"),
        pooling=("mean",),
        model="Ernie4_5_VLMoeVisionTransformerPretrainedModel",
    ),
    "flava_image_model": replace(_CLIP, blocks="encoder.layer", model="FlavaImageModel"),
    "git_vision_model": replace(_INSIDE, pooling=("mean", "cls"), model="GitVisionModel"),
    "got_ocr2_vision": Rule(
        takes="picture", blocks="layers", maps="nhwc", resize="fixed", model="GotOcr2VisionEncoder"
    ),
    "instructblip_vision_model": replace(_CLIP, model="InstructBlipVisionModel"),
    "instructblipvideo_vision_model": replace(_CLIP, model="InstructBlipVideoVisionModel"),
    "janus_vision_model": replace(_CLIP, model="JanusVisionModel"),
    "kosmos_2_vision_model": replace(_CLIP, blocks="model.encoder.layers", model="Kosmos2VisionModel"),
    "metaclip_2_vision_model": replace(_CLIP, model="MetaClip2VisionModel"),
    "minimax_m3_vl_vision": replace(
        QWEN_RULE,
        packing=Packing(argument="pixel_values"),
        pooling=("mean",),
        blocks="layers",
        model="MiniMaxM3VLVisionModel",
    ),
    "ovis2_vision": Rule(takes="picture", resize="fixed", model="Ovis2VisionModel"),
    "owlv2_vision_model": replace(_INSIDE, model="Owlv2VisionModel"),
    "owlvit_vision_model": replace(_INSIDE, model="OwlViTVisionModel"),
    "qwen2_5_omni_vision_encoder": replace(WINDOWED_RULE, model="Qwen2_5OmniVisionEncoder"),
    "qwen2_vl_vision": replace(QWEN_RULE, model="Qwen2VisionTransformerPretrainedModel"),
    "qwen3_omni_moe_vision_encoder": replace(QWEN_RULE, model="Qwen3OmniMoeVisionEncoder", beside=("merger_list",)),
}
