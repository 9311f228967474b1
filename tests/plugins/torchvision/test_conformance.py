"""The smallest member of a family passes the kit that every provider's author runs."""

from __future__ import annotations

import pytest

from zoo.testing.backbones import check_backbone


@pytest.mark.parametrize(
    "name",
    ["mnasnet0_5", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "squeezenet1_1", "vit_b_32?img_size=64"],
)
def test_it_keeps_the_whole_contract(name):
    check_backbone(f"torchvision:{name}")
