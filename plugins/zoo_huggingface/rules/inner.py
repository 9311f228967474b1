"""Vision towers of larger models that ``AutoModel`` does not name: model type to rule, with the class of each.

Towers of two encoders (DeepSeek-OCR 2, Unlimited-OCR) end their stages in the first, which has maps; the second is
``post``.
"""

from __future__ import annotations

from dataclasses import replace

from zoo_huggingface.rules.packed import QWEN_RULE, STRIP_RULE, WINDOWED_RULE
from zoo_huggingface.rules.packing import Packing
from zoo_huggingface.rules.rule import Rule

__all__ = ["INNER"]

_PATCH = ("patch_size",)
_CLIP = Rule(pooling=("pooler", "mean"), blocks="encoder.layers", maps="tokens", resize="flag")
_SAM = Rule(takes="picture", blocks="layers", maps="nhwc", divisor=64, least=64)
_TWO = replace(_SAM, size=(1024, 1024), stride=16, blocks="sam_encoder.layers")
_NUMBERED = Rule(
    takes="packed",
    packing=Packing(
        order="yixj",
        values="uvc",
        shape="numbered",
        batched=True,
        argument="flattened_patches",
        extra=(("attention_mask", "mask"),),
        patch=16,
        merge=1,
    ),
    blocks="encoder.layer",
    maps="packed",
    stride=16,
    divisor=16,
)
_INSIDE = replace(_CLIP, blocks="vision_model.encoder.layers")

INNER: dict[str, Rule] = {
    "align_vision_model": Rule(
        pooling=("pooler",), blocks="encoder.blocks", maps="nchw", stem="embeddings", least=32, model="AlignVisionModel"
    ),
    "altclip_vision_model": replace(_CLIP, model="AltCLIPVisionModel"),
    "blip_2_vision_model": replace(_CLIP, model="Blip2VisionModel"),
    "blip_vision_model": replace(_CLIP, model="BlipVisionModel"),
    "clipseg_vision_model": replace(_CLIP, model="CLIPSegVisionModel"),
    "deepseek_ocr2_sam_vision_model": replace(_SAM, model="DeepseekOcr2SamVisionEncoder"),
    "deepseek_ocr2_vision": replace(_TWO, shrink=0, resize="fixed", model="DeepseekOcr2VisionModel"),
    "ernie4_5_vl_moe_vision": replace(
        QWEN_RULE,
        packing=Packing(values="cuv"),
        pooling=("mean",),
        model="Ernie4_5_VLMoeVisionTransformerPretrainedModel",
    ),
    "flava_image_model": replace(_CLIP, blocks="encoder.layer", model="FlavaImageModel"),
    "florence_vision": Rule(
        takes="picture",
        argument="hidden_states",
        blocks="blocks",
        maps="nchw",
        least=32,
        model="Florence2VisionBackbone",
    ),
    "git_vision_model": replace(_INSIDE, pooling=("mean", "cls"), model="GitVisionModel"),
    "got_ocr2_vision": Rule(
        takes="picture", blocks="layers", maps="nhwc", resize="fixed", model="GotOcr2VisionEncoder"
    ),
    "idefics2_vision": Rule(
        takes="picture", blocks="encoder.layers", maps="tokens", divisor=_PATCH, model="Idefics2VisionTransformer"
    ),
    "instructblip_vision_model": replace(_CLIP, model="InstructBlipVisionModel"),
    "instructblipvideo_vision_model": replace(_CLIP, model="InstructBlipVideoVisionModel"),
    "janus_vision_model": replace(_CLIP, model="JanusVisionModel"),
    "kosmos_2_vision_model": replace(_CLIP, blocks="model.encoder.layers", model="Kosmos2VisionModel"),
    "kosmos_2_5_vision_model": replace(_NUMBERED, model="Kosmos2_5VisionModel"),
    "llama4_vision_model": Rule(
        takes="picture",
        pooling=("mean", "merged"),
        last="@layernorm_post",
        pooler="last_hidden_state",
        blocks="model.layers",
        maps="tokens",
        after=1,
        resize="fixed",
        merger="vision_adapter",
        model="Llama4VisionModel",
    ),
    "metaclip_2_vision_model": replace(_CLIP, model="MetaClip2VisionModel"),
    "minicpmv4_6_vision": replace(STRIP_RULE, model="MiniCPMV4_6VisionModel"),
    "minimax_m3_vl_vision": replace(
        QWEN_RULE,
        packing=Packing(argument="pixel_values"),
        pooling=("mean",),
        blocks="layers",
        model="MiniMaxM3VLVisionModel",
    ),
    "mllama_vision_model": Rule(
        takes="picture as tile",
        pooling=("mean", "cls"),
        state="tiles",
        blocks="transformer.layers",
        maps="tiles",
        resize="fixed",
        checkpointing=False,
        model="MllamaVisionModel",
    ),
    "molmo2_vision": Rule(
        takes="packed",
        packing=Packing(order="yixj", values="uvc", batched=True, argument="pixel_values", extra=(), merge=1),
        blocks="layers",
        maps="packed",
        divisor=_PATCH,
        resize="fixed",
        model="Molmo2VisionModel",
    ),
    "ovis2_vision": Rule(takes="picture", resize="fixed", model="Ovis2VisionModel"),
    "owlv2_vision_model": replace(_INSIDE, model="Owlv2VisionModel"),
    "owlvit_vision_model": replace(_INSIDE, model="OwlViTVisionModel"),
    "paddleocr_vl_vision": Rule(
        takes="packed",
        packing=Packing(order="yixj", values="cuv", shape="patch", batched=True, argument="pixel_values", merge=1),
        blocks="vision_model.encoder.layers",
        maps="packed",
        divisor=("patch_size", "spatial_merge_size"),
        model="PaddleOCRVisionModel",
    ),
    "phi4_multimodal_vision": Rule(
        pooling=("pooler", "mean"),
        takes="picture",
        blocks="encoder.layers",
        maps="tokens",
        divisor=_PATCH,
        model="Phi4MultimodalVisionModel",
    ),
    "pix2struct_vision_model": replace(_NUMBERED, model="Pix2StructVisionModel"),
    "qwen2_5_omni_vision_encoder": replace(WINDOWED_RULE, model="Qwen2_5OmniVisionEncoder"),
    "qwen2_vl_vision": replace(QWEN_RULE, model="Qwen2VisionTransformerPretrainedModel"),
    "qwen3_omni_moe_vision_encoder": replace(QWEN_RULE, model="Qwen3OmniMoeVisionEncoder", beside=("merger_list",)),
    "step3p5_vision": Rule(
        takes="picture", blocks="layers", maps="tokens", shrink=4, divisor=_PATCH, model="Step3p7VisionModel"
    ),
    "unlimited_ocr_sam_vision_model": replace(_SAM, model="UnlimitedOcrSamVisionEncoder"),
    "unlimited_ocr_vision": replace(_TWO, shrink=4, model="UnlimitedOcrVisionModel"),
}
