"""The bodies of torchvision's segmentation and detection models, one row each.

What is served is the body: the classification network inside, dilated where the library dilates it. What stands on it
for one task only, and the library builds anew for each, is left out of weights files: the heads, a feature pyramid, the
rescaling and the extra layers of an SSD.
"""

from __future__ import annotations

from typing import Any

from zoo.preprocessing import Preprocessing
from zoo_torchvision.anatomy import Anatomy

__all__ = ["BODIES"]


def _limited(shorter: int, longer: int) -> Preprocessing:
    """Say a detector's own transform: normalise, then scale the shorter side unless the longer grew too long."""
    return Preprocessing(
        size=(shorter, shorter),
        resize=(shorter, longer),
        fit="limit_down",
        interpolation="bilinear",
        on="float",
        antialias=False,
        crop="none",
        rules="torchvision",
    )


def _squashed(side: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Preprocessing:
    """Say an SSD's own transform: normalise, then scale to one size whatever the picture's shape."""
    return Preprocessing(
        size=(side, side),
        resize=(side, side),
        interpolation="bilinear",
        on="float",
        antialias=False,
        mean=mean,
        std=std,
        rules="torchvision",
    )


def _resnet(*members: str, inside: str, **more: Any) -> Anatomy:
    return Anatomy(
        members=members,
        inside=inside,
        conv="conv1",
        stem="relu",
        begins="maxpool",
        ends=("layer1", "layer2", "layer3", "layer4"),
        pooling="global average of the last map",
        **more,
    )


def _mobilenet(*members: str, inside: str, taken: int, **more: Any) -> Anatomy:
    """Describe a MobileNetV3 body; what the library takes after the first block of a resolution ends a stage, too."""
    return Anatomy(
        members=members,
        inside=inside,
        conv="0.0",
        begins="1",
        ends=tuple(str(number) for number in sorted({1, 3, 6, 12, 16, taken})),
        pooling="global average of the last map",
        **more,
    )


_SEGMENTATION: dict[str, Any] = {"inside": "backbone", "left_out": ("classifier", "aux_classifier")}
_TWO_STAGES: dict[str, Any] = {"inside": "backbone.body", "left_out": ("backbone.fpn", "rpn", "roi_heads")}
_ONE_STAGE: dict[str, Any] = {"inside": "backbone.body", "left_out": ("backbone.fpn", "head")}

BODIES: tuple[Anatomy, ...] = (
    _resnet("deeplabv3_resnet*", "fcn_resnet*", **_SEGMENTATION),
    _mobilenet("deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large", taken=4, **_SEGMENTATION),
    _resnet(
        "fasterrcnn_resnet50_fpn",
        "maskrcnn_resnet50_fpn",
        frozen_norm={"COCO_V1": 0.0},
        recipe=_limited(800, 1333),
        **_TWO_STAGES,
    ),
    _resnet(
        "keypointrcnn_resnet50_fpn",
        frozen_norm={"COCO_V1": 0.0, "COCO_LEGACY": 1e-5},
        recipe=_limited(800, 1333),
        **_TWO_STAGES,
    ),
    _resnet("fasterrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn_v2", recipe=_limited(800, 1333), **_TWO_STAGES),
    _mobilenet(
        "fasterrcnn_mobilenet_v3_large_fpn",
        taken=13,
        frozen_norm={"COCO_V1": 1e-5},
        recipe=_limited(800, 1333),
        **_TWO_STAGES,
    ),
    _mobilenet(
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        taken=13,
        frozen_norm={"COCO_V1": 1e-5},
        recipe=_limited(320, 640),
        **_TWO_STAGES,
    ),
    _resnet("fcos_resnet50_fpn", frozen_norm={"COCO_V1": 1e-5}, recipe=_limited(800, 1333), **_ONE_STAGE),
    _resnet("retinanet_resnet50_fpn", frozen_norm={"COCO_V1": 0.0}, recipe=_limited(800, 1333), **_ONE_STAGE),
    _resnet("retinanet_resnet50_fpn_v2", recipe=_limited(800, 1333), **_ONE_STAGE),
    Anatomy(
        members=("ssd300_vgg16",),
        inside="backbone",
        conv="features.0",
        begins="features.0",
        ends=("features.4", "features.9", "features.22", "extra.0"),
        dropped=("scale_weight", "extra.1", "extra.2", "extra.3", "extra.4"),
        left_out=("head", "backbone.scale_weight", *(f"backbone.extra.{number}" for number in (1, 2, 3, 4))),
        trunk=("features", "extra.0"),
        pooling="global average of the last map",
        least=12,
        recipe=_squashed(300, mean=(0.48235, 0.45882, 0.40784), std=(1 / 255,) * 3),
    ),
    Anatomy(
        members=("ssdlite320_mobilenet_v3_large",),
        inside="backbone",
        conv="features.0.0.0",
        begins="features.0.1",
        ends=("features.0.1", "features.0.3", "features.0.6", "features.0.13", "features.1"),
        dropped=("extra.0", "extra.1", "extra.2", "extra.3"),
        left_out=("head", "backbone.extra"),
        trunk=("features",),
        pooling="global average of the last map",
        recipe=_squashed(320, mean=(0.5,) * 3, std=(0.5,) * 3),
    ),
)
