"""Small members of the families pass the kit that every provider's author runs."""

from __future__ import annotations

import pytest

from zoo.testing.backbones import check_backbone

QUICK = ("shufflenet_v2_x0_5",)
SLOW = ("fasterrcnn_resnet50_fpn?img_size=64", "mc3_18?img_size=32", "resnet18?img_size=64", "swin_t?img_size=64")
SOAK = (
    "googlenet?img_size=64",
    "lraspp_mobilenet_v3_large?img_size=96",
    "mobilenet_v3_small",
    "squeezenet1_0",
    "vit_b_32?img_size=64",
)
MARKED = [
    *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
    *(pytest.param(name, marks=[pytest.mark.slow, pytest.mark.soak]) for name in SOAK),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*QUICK, *MARKED])
def test_it_keeps_the_whole_contract(name):
    check_backbone(f"torchvision:{name}")
