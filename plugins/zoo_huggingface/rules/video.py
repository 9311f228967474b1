"""Video encoders: model type to rule. They give tokens of space and time, and no maps."""

from __future__ import annotations

from zoo_huggingface.rules.rule import Rule

__all__ = ["VIDEO"]

VIDEO: dict[str, Rule] = {
    "pe_video_encoder": Rule(
        takes="clip",
        argument="pixel_values_videos",
        pooling=("pooler", "mean"),
        blocks="layers",
        size=(336, 336),
        resize="fixed",
    ),
    "timesformer": Rule(takes="clip", pooling=("cls", "mean"), blocks="encoder.layer", resize="fixed"),
    "videomae": Rule(takes="clip", pooling=("mean",), blocks="encoder.layer", resize="fixed"),
    "videoprism_vision_model": Rule(
        takes="clip", argument="pixel_values_videos", pooling=("mean",), blocks="spatial_layers", resize="fixed"
    ),
    "vivit": Rule(
        takes="clip", pooling=("cls", "mean", "pooler"), blocks="layers", optional_pooler=True, resize="fixed"
    ),
    "vjepa2": Rule(
        takes="clip",
        argument="pixel_values_videos",
        pooling=("mean",),
        last="@encoder",
        blocks="encoder.layer",
        resize="fixed",
        call={"skip_predictor": True},
    ),
}
