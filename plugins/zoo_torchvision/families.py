"""Loose names that people type, and the torchvision architecture that they most likely mean.

Version 1, for torchvision 0.29.
"""

from __future__ import annotations

__all__ = ["FAMILIES"]

FAMILIES = {
    "convnext": "convnext_tiny",
    "densenet": "densenet121",
    "efficientnet": "efficientnet_b0",
    "efficientnet_v2": "efficientnet_v2_s",
    "inception": "inception_v3",
    "maxvit": "maxvit_t",
    "mnasnet": "mnasnet1_0",
    "mobilenet": "mobilenet_v2",
    "mobilenet_v3": "mobilenet_v3_large",
    "regnet": "regnet_y_3_2gf",
    "regnet_x": "regnet_x_3_2gf",
    "regnet_y": "regnet_y_3_2gf",
    "resnet": "resnet50",
    "resnext": "resnext50_32x4d",
    "shufflenet": "shufflenet_v2_x1_0",
    "shufflenet_v2": "shufflenet_v2_x1_0",
    "squeezenet": "squeezenet1_1",
    "swin": "swin_t",
    "swin_v2": "swin_v2_t",
    "vgg": "vgg16",
    "vit": "vit_b_16",
    "wide_resnet": "wide_resnet50_2",
}
