"""Loose names that people type, and the torchvision architecture that they most likely mean.

Version 2, for torchvision 0.29; the name of a way to detect, segment or see motion means the backbone inside its usual
model. What the installed version or zoo does not serve is left out.
"""

from __future__ import annotations

__all__ = ["FAMILIES"]

FAMILIES = {
    "convnext": "convnext_tiny",
    "deeplab": "deeplabv3_resnet50",
    "deeplabv3": "deeplabv3_resnet50",
    "densenet": "densenet121",
    "efficientnet": "efficientnet_b0",
    "efficientnet_v2": "efficientnet_v2_s",
    "fasterrcnn": "fasterrcnn_resnet50_fpn",
    "fcn": "fcn_resnet50",
    "fcos": "fcos_resnet50_fpn",
    "inception": "inception_v3",
    "keypointrcnn": "keypointrcnn_resnet50_fpn",
    "lraspp": "lraspp_mobilenet_v3_large",
    "maskrcnn": "maskrcnn_resnet50_fpn",
    "maxvit": "maxvit_t",
    "mc3": "mc3_18",
    "mnasnet": "mnasnet1_0",
    "mobilenet": "mobilenet_v2",
    "mobilenet_v3": "mobilenet_v3_large",
    "mvit": "mvit_v2_s",
    "mvit_v1": "mvit_v1_b",
    "mvit_v2": "mvit_v2_s",
    "r2plus1d": "r2plus1d_18",
    "r3d": "r3d_18",
    "regnet": "regnet_y_3_2gf",
    "regnet_x": "regnet_x_3_2gf",
    "regnet_y": "regnet_y_3_2gf",
    "resnet": "resnet50",
    "resnext": "resnext50_32x4d",
    "retinanet": "retinanet_resnet50_fpn",
    "shufflenet": "shufflenet_v2_x1_0",
    "shufflenet_v2": "shufflenet_v2_x1_0",
    "squeezenet": "squeezenet1_1",
    "ssd": "ssd300_vgg16",
    "ssdlite": "ssdlite320_mobilenet_v3_large",
    "swin": "swin_t",
    "swin3d": "swin3d_t",
    "swin_v2": "swin_v2_t",
    "vgg": "vgg16",
    "video_swin": "swin3d_t",
    "vit": "vit_b_16",
    "wide_resnet": "wide_resnet50_2",
}
