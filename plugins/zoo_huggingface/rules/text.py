"""Text encoders: model type to rule."""

from __future__ import annotations

from zoo_huggingface.rules.rule import Rule

__all__ = ["TEXT"]

_BERT = Rule(pooling=("mean", "cls", "pooler"), blocks="encoder.layer", optional_pooler=True)
_CLIP_TEXT = Rule(pooling=("eos",), blocks="encoder.layers")

TEXT: dict[str, Rule] = {
    "bert": _BERT,
    "clip_text_model": _CLIP_TEXT,
    "distilbert": Rule(pooling=("mean", "cls"), blocks="transformer.layer"),
    "electra": Rule(pooling=("mean", "cls"), blocks="encoder.layer"),
    "gpt2": Rule(pooling=("last", "mean"), blocks="h", call={"use_cache": False}),
    "roberta": _BERT,
    "siglip_text_model": Rule(pooling=("pooler",), blocks="encoder.layers", model="SiglipTextModel"),
    "xlm-roberta": _BERT,
}
