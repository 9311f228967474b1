"""Small members of the families pass the kit that every provider's author runs."""

from __future__ import annotations

import pytest

from zoo.testing.backbones import check_backbone

QUICK = ("shufflenet_v2_x0_5",)
SLOW = (
    "fasterrcnn_resnet50_fpn?img_size=64",
    "googlenet?img_size=64",
    "lraspp_mobilenet_v3_large?img_size=96",
    "mc3_18?img_size=32",
    "mobilenet_v3_small",
    "resnet18?img_size=64",
    "squeezenet1_0",
    "swin_t?img_size=64",
)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_it_keeps_the_whole_contract(name):
    check_backbone(f"torchvision:{name}")
