"""The conformance kit that every plugin's author runs, on one small backbone of each kind."""

from __future__ import annotations

import pytest

FLAT = "hidden_size=32&num_hidden_layers=4&num_attention_heads=2"
VIT = f"{FLAT}&intermediate_size=64&image_size=32&patch_size=8"
KINDS = (
    "hf:resnet?embedding_size=8&hidden_sizes=[8,12,16,20]&depths=[1,1,1,1]&layer_type=basic&in_channels=2",
    "hf:swin?image_size=64&embed_dim=12&depths=[1,1,1,1]&num_heads=[1,2,3,4]&window_size=2",
    f"hf:clip#vision?{VIT}",
    f"hf:bert?{FLAT}&intermediate_size=64",
)


@pytest.mark.zoo_backbone(KINDS[0], skip=("export", "compiled"))
def test_the_backbone_keeps_the_contract(backbone_check):
    backbone_check()


@pytest.mark.thin(6)
@pytest.mark.slow
@pytest.mark.zoo_backbone(*KINDS[1:], skip=("export", "compiled"))
def test_other_backbones_keep_the_contract(backbone_check):
    backbone_check()


@pytest.mark.slow
@pytest.mark.zoo_backbone(*KINDS, only=("export", "compiled"))
def test_the_backbone_can_be_exported_and_compiled_where_the_native_module_can(backbone_check):
    backbone_check()
