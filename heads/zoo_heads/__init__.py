"""zoo's own heads: one file each, entered by the hook that a stranger's heads use too."""

from __future__ import annotations

from zoo.hooks import hookimpl


@hookimpl
def zoo_heads() -> dict[str, str]:
    """Give the head types; a class is imported when a head of its type is built."""
    return {
        "attention_pool": "zoo_heads.attention_pool:AttentionPool",
        "classifier": "zoo_heads.classifier:Classifier",
        "embedding": "zoo_heads.embedding:Embedding",
        "feature_fusion": "zoo_heads.feature_fusion:FeatureFusion",
        "multi_task": "zoo_heads.multi_task:MultiTask",
        "ordinal": "zoo_heads.ordinal:Ordinal",
        "prototype": "zoo_heads.prototype:Prototype",
        "regression": "zoo_heads.regression:Regression",
        "segmentation": "zoo_heads.segmentation:Segmentation",
        "tip_adapter": "zoo_heads.tip_adapter:TipAdapter",
        "two_stream": "zoo_heads.two_stream:TwoStream",
        "zero_shot": "zoo_heads.zero_shot:ZeroShot",
    }
