"""The families of torchvision's video models, one row each.

Their stages give no maps: a map of zoo's has a height and a width and no time. The number of frames is that of the
clips on which the library states the accuracy of the weights.
"""

from __future__ import annotations

from zoo_torchvision.anatomy import Anatomy

__all__ = ["VIDEOS"]


VIDEOS: tuple[Anatomy, ...] = (
    Anatomy(
        members=("mc3_18", "r2plus1d_18", "r3d_18"),
        conv="stem.0",
        begins="layer1",
        ends=("layer1", "layer2", "layer3", "layer4"),
        classifier="fc",
        maps=False,
        pooling="global average over time, height and width",
        frames=16,
    ),
    Anatomy(
        members=("mvit_v1_b", "mvit_v2_s"),
        conv="conv_proj",
        begins="blocks.0",
        ends=("blocks.0", "blocks.2", "blocks.13", "blocks.15"),
        classifier="head.1",
        maps=False,
        tokens="norm",
        pooling="class token after the last norm",
        one_size=True,
        frames=16,
        fixed_frames=True,
        rates=("dropout", "attention_dropout"),
        drop_path="keyword",
    ),
    Anatomy(
        members=("s3d",),
        conv="features.0.0.0",
        begins="features.1",
        ends=("features.3", "features.6", "features.12", "features.15"),
        classifier="classifier.1",
        maps=False,
        pooling="average over 2 frames and 7 by 7 of the last stage, then of all its places",
        least=224,
        frames=128,
        least_frames=14,
        rates=("dropout",),
    ),
    Anatomy(
        members=("swin3d_?",),
        conv="patch_embed.proj",
        begins="features.0",
        ends=("features.0", "features.2", "features.4", "features.6"),
        classifier="head",
        maps=False,
        pooling="layer norm, then global average over time, height and width",
        frames=32,
        rates=("dropout", "attention_dropout"),
        drop_path="modules",
    ),
)
