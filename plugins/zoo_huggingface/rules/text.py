"""Text encoders and decoders: model type to rule.

Encoders are pooled by the mean over their real tokens; ``cls`` and ``pooler`` are there where the library has them.
Decoders are pooled by their last real token. Of an encoder with a decoder behind it, only the encoder is used.
"""

from __future__ import annotations

from dataclasses import replace

from zoo_huggingface.rules.rule import Rule
from zoo_huggingface.rules.sequence import Sequence

__all__ = ["TEXT"]

_SEGMENTS = {"token_type_ids": 2}
_IDS = Sequence()
_PAIRS = Sequence(extra=_SEGMENTS)
_PAST_PADDING = Sequence(extra=_SEGMENTS, offset=True)
_RELATIVE = Sequence(limit=None)
_FROM_FIRST = Sequence(shifted=True)

_ENCODER = Rule(sequence=_IDS, pooling=("mean", "cls"), blocks="layers")
_BERT = Rule(sequence=_PAIRS, pooling=("mean", "cls", "pooler"), blocks="encoder.layer", optional_pooler=True)
_BERT_ALONE = Rule(sequence=_PAIRS, pooling=("mean", "cls"), blocks="encoder.layer")
_ROBERTA = replace(_BERT, sequence=_PAST_PADDING)
_CLIP_TEXT = Rule(sequence=_IDS, pooling=("eos",), blocks="encoder.layers")
_XLM = Rule(sequence=_PAIRS, pooling=("mean", "cls"), blocks="layer_norm2", begin="attentions.0")
_T5 = Rule(sequence=_RELATIVE, blocks="block", tower="encoder")
_BART = Rule(sequence=_IDS, blocks="layers", tower="encoder")
_DECODER = Rule(sequence=_IDS, pooling=("last", "mean"), blocks="layers", call={"use_cache": False})
_GPT2 = replace(_DECODER, sequence=_FROM_FIRST, blocks="h")

_ENCODERS: dict[str, Rule] = {
    "albert": replace(_BERT, blocks="encoder.albert_layer_groups"),
    "bert": _BERT,
    "bert-generation": replace(_BERT_ALONE, sequence=_IDS),
    "big_bird": _BERT,
    "camembert": _ROBERTA,
    "canine": _BERT,
    "clip_text_model": _CLIP_TEXT,
    "convbert": _BERT_ALONE,
    "data2vec-text": _ROBERTA,
    "deberta": _BERT_ALONE,
    "deberta-v2": _BERT_ALONE,
    "distilbert": Rule(sequence=_IDS, pooling=("mean", "cls"), blocks="transformer.layer"),
    "electra": _BERT_ALONE,
    "embedding_gemma2_text": replace(_ENCODER, pooling=("mean",)),
    "ernie": _BERT,
    "esm": replace(_BERT, sequence=Sequence(offset=True)),
    "esmc": _ENCODER,
    "eurobert": _ENCODER,
    "flaubert": _XLM,
    "fnet": replace(_BERT, sequence=replace(_PAIRS, mask="")),
    "funnel": Rule(sequence=replace(_PAIRS, limit=None, masked=True), pooling=("mean", "cls"), blocks="encoder.blocks"),
    "gte": replace(_BERT, blocks="layers"),
    "ibert": _ROBERTA,
    "jina_embeddings_v3": replace(_BERT, blocks="layers"),
    "layoutlm": replace(_BERT, sequence=Sequence(extra={**_SEGMENTS, "bbox": 3}), optional_pooler=False),
    "layoutlmv3": replace(_BERT_ALONE, sequence=Sequence(extra={"bbox": 3}, offset=True)),
    "lilt": replace(_BERT, sequence=Sequence(extra={**_SEGMENTS, "bbox": 3}, offset=True)),
    "longformer": replace(_BERT, sequence=_PAST_PADDING),
    "luke": replace(_BERT, sequence=_PAST_PADDING),
    "markuplm": replace(
        _BERT,
        sequence=_PAST_PADDING,
    ),
    "megatron-bert": _BERT,
    "mobilebert": _BERT,
    "modernbert": _ENCODER,
    "mpnet": replace(_BERT, sequence=Sequence(offset=True)),
    "mra": _BERT_ALONE,
    "neomme": Rule(sequence=_IDS, pooling=("mean", "cls"), blocks="layers"),
    "nomic_bert": replace(_BERT, blocks="layers"),
    "nystromformer": _BERT_ALONE,
    "reformer": Rule(sequence=_IDS, pooling=("mean", "cls"), blocks="encoder.layers", call={"use_cache": False}),
    "openai_privacy_filter": replace(_ENCODER, pooling=("mean",)),
    "rembert": _BERT,
    "roberta": _ROBERTA,
    "roberta-prelayernorm": _ROBERTA,
    "roc_bert": _BERT,
    "roformer": _BERT_ALONE,
    "sam3_lite_text_text_model": replace(_CLIP_TEXT, blocks="layers"),
    "siglip_text_model": Rule(
        sequence=Sequence(padded=True), pooling=("pooler",), blocks="encoder.layers", model="SiglipTextModel"
    ),
    "splinter": _BERT_ALONE,
    "squeezebert": replace(_BERT, blocks="encoder.layers", optional_pooler=False),
    "tapas": replace(_BERT, sequence=Sequence(extra={"token_type_ids": 3})),
    "tipsv2_text_model": Rule(sequence=Sequence(padded=True), pooling=("pooler", "mean"), blocks="encoder.layers"),
    "ultrabert": _ENCODER,
    "xlm": _XLM,
    "xlm-roberta": _ROBERTA,
    "xlm-roberta-xl": _ROBERTA,
    "xlnet": Rule(sequence=_RELATIVE, pooling=("last", "mean"), blocks="layer"),
    "xmod": _ROBERTA,
    "yoso": _BERT_ALONE,
}

_ENCODERS_OF_TWO: dict[str, Rule] = {
    **dict.fromkeys(
        (
            *("bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "marian", "mbart", "mvp", "pegasus"),
            *("pegasus_x", "plbart", "prophetnet"),
        ),
        _BART,
    ),
    **dict.fromkeys(("longt5", "switch_transformers"), _T5),
    **{
        name: replace(_T5, model=model)
        for name, model in (("t5", "T5EncoderModel"), ("mt5", "MT5EncoderModel"), ("umt5", "UMT5EncoderModel"))
    },
    "fsmt": replace(_BART, sequence=Sequence(offset=True)),
    "led": replace(_BART, sequence=Sequence(limit=("max_encoder_position_embeddings", 1))),
    "m2m_100": replace(_BART, sequence=_RELATIVE),
    "nllb-moe": replace(_BART, sequence=_RELATIVE),
    "t5gemma": replace(_BART, view="encoder"),
}
"""Types of an encoder and a decoder, of which the encoder is used."""

_DECODERS: dict[str, Rule] = {
    **dict.fromkeys(
        (
            *("afmoe", "apertus", "arcee", "aria_text", "axk1", "axk2", "bailing_hybrid", "bamba", "beam", "bitnet"),
            *(
                "cohere",
                "cohere2",
                "cohere2_moe",
                "cohere_compass_text",
                "cosmos3_edge_text",
                "cwm",
                "deepseek_v2",
                "deepseek_v3",
            ),
            *("deepseek_v32", "deepseek_v4", "diffllama", "doge", "dots1", "dots3_note_text", "ernie4_5"),
            *("ernie4_5_moe", "exaone4", "exaone_moe", "falcon_h1", "falcon_mamba", "flex_olmo", "flint", "gemma"),
            *("gemma2", "gemma3_text", "gemma3n_text", "gemma4_text", "gemma4_unified_text", "glm", "glm4"),
            *("glm4_moe", "glm4_moe_lite", "glm4v_moe_text", "glm4v_text", "glm5_next_text", "glm_image_text"),
            *("glm_moe_dsa", "glm_ocr_text", "granite_docling_text", "hrm_text", "hunyuan_vl_text"),
            *("gpt_neox", "gpt_neox_japanese", "gpt_oss", "granite"),
            *("granite_swa", "granitemoe", "granitemoe_swa", "granitemoehybrid", "granitemoeshared", "helium"),
            *("hunyuan_v1_dense", "hunyuan_v1_moe", "hy_v3", "hy_v4", "hyperclovax", "inkling2_text"),
            *("inkling_text", "internlm3", "iquestcoder", "jais2", "jamba", "jetmoe", "kimi_linear", "kolibri1"),
            *("laguna", "lfm2", "lfm2_moe", "lfm3", "llama", "llama4_text", "longcat_flash", "mamba", "mamba2"),
            *("mellum", "mimo_v2_flash", "minicpm3", "minimax", "minimax_m2", "minimax_m3_vl_text", "ministral"),
            *(
                "ministral3",
                "mistral",
                "mistral4",
                "mistral_large4_text",
                "mixtral",
                "muse_glimmer_text",
                "muse_spark_text",
                "modernbert-decoder",
                "molmo2_text",
                "moshi",
            ),
            *("nanochat", "nemotron", "nemotron_h", "olmo", "olmo2", "olmo3", "olmo_hybrid", "olmoe", "persimmon"),
            *(
                "phi",
                "phi3",
                "phimoe",
                "qwen2",
                "qwen2_5_vl_text",
                "qwen2_moe",
                "qwen2_vl_text",
                "qwen3",
                "qwen3_5_moe_text",
                "qwen3_5_text",
            ),
            *(
                "qwen3_moe",
                "qwen3_next",
                "qwen3_vl_moe_text",
                "qwen3_vl_text",
                "qwen4_exp_text",
                "recurrent_gemma",
                "seed_oss",
                "smollm3",
                "solar_open",
            ),
            *("stablelm", "starcoder2", "vaultgemma", "youtu", "zamba", "zamba2", "zaya"),
        ),
        _DECODER,
    ),
    **dict.fromkeys(("gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neo"), _GPT2),
    **dict.fromkeys(("bloom", "codegen", "falcon", "gptj"), replace(_DECODER, blocks="h")),
    **dict.fromkeys(("mpt", "rwkv", "xlstm"), replace(_DECODER, blocks="blocks")),
    "biogpt": replace(_DECODER, sequence=_FROM_FIRST),
    "cpmant": replace(_DECODER, sequence=_RELATIVE, blocks="encoder.layers"),
    "ctrl": _GPT2,
    "dbrx": replace(_DECODER, sequence=Sequence(limit=("max_seq_len", 1)), blocks="blocks"),
    "openai-gpt": replace(_GPT2, call={}),
    **{
        name: replace(_DECODER, model=model)
        for name, model in (
            ("deepseek_ocr2_text", "DeepseekOcr2TextModel"),
            ("paddleocr_vl_text", "PaddleOCRTextModel"),
            ("step3p5", "Step3p7TextModel"),
            ("unlimited_ocr_text", "UnlimitedOcrTextModel"),
        )
    },
    "kosmos_2_5_text_model": replace(_DECODER, blocks="model.layers", model="Kosmos2_5TextModel"),
    "opt": replace(_DECODER, blocks="decoder.layers"),
    "xglm": replace(_DECODER, sequence=_FROM_FIRST),
}

TEXT: dict[str, Rule] = dict(sorted({**_ENCODERS, **_ENCODERS_OF_TWO, **_DECODERS}.items()))
"""Model type to rule."""
