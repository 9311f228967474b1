"""Video encoders against transformers itself, which takes the frames in front of the channels."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from zoo.contracts.features import Want
from zoo.errors import CapabilityError, ShapeError
from zoo.reference import Reference
from zoo.spec import BackboneSpec
from zoo_huggingface.provider import HuggingFaceProvider
from zoo_huggingface.rules.video import VIDEO

PROVIDER = HuggingFaceProvider()
_WIDTHS = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
_VIT = {**_WIDTHS, "intermediate_size": 64, "image_size": 32, "patch_size": 8, "num_frames": 4}
CASES: dict[str, dict[str, Any]] = {
    "timesformer": _VIT,
    "videomae": {**_VIT, "tubelet_size": 2},
    "videoprism_vision_model": {
        **{k: v for k, v in _VIT.items() if k not in ("patch_size", "num_hidden_layers")},
        "tubelet_size": [1, 8, 8], "num_spatial_layers": 2, "num_temporal_layers": 2,
    },
    "vivit": {**{k: v for k, v in _VIT.items() if k != "patch_size"}, "tubelet_size": [2, 8, 8]},
    "vjepa2": {
        **_WIDTHS, "crop_size": 32, "patch_size": 8, "frames_per_clip": 4, "tubelet_size": 2,
        "pred_hidden_size": 12, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1,
    },
}  # fmt: skip
PREFIX = {"timesformer": 1, "vivit": 1}


@cache
def spec_of(name: str) -> BackboneSpec:
    fields = {key: json.dumps(value) if isinstance(value, list) else value for key, value in CASES[name].items()}
    return PROVIDER.spec(Reference("hf", name, options=fields))


def build(name: str) -> Any:
    torch.manual_seed(0)
    return PROVIDER.build(spec_of(name), weights=None).eval()


def clip() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, 4, 32, 32)


def test_every_rule_for_videos_is_tested_here():
    assert {*CASES, "pe_video_encoder"} == set(VIDEO)  # its frames are a timm model's, which has no small form


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_pooled_vector_and_tokens_are_the_librarys(name):
    backbone = build(name)
    model: Any = AutoModel.from_config(AutoConfig.for_model(name, **CASES[name])).eval()
    model.load_state_dict(backbone.native.state_dict(), strict=False)
    last = model(clip().transpose(1, 2)).last_hidden_state
    prefix = PREFIX.get(name, 0)

    features = backbone(clip(), Want(tokens=True))

    spec = backbone.spec
    assert (spec.modality, spec.inputs[0].kind, spec.inputs[0].rank, spec.prefix_tokens) == (
        "video",
        "video",
        5,
        prefix,
    )
    assert (spec.inputs[0].length, spec.inputs[0].fixed_length) == (4, True)
    assert torch.equal(features.tokens, last[:, prefix:])
    assert torch.equal(features.pooled, last[:, 0] if prefix else last.mean(1))
    assert features.grid is None


@pytest.mark.parametrize("name", CASES)
def test_each_parameter_gets_a_gradient_whole_and_cut_and_stages_stand_in_their_order(name):
    for want in (Want(tokens=True), Want()):
        backbone = build(name)
        if not want.tokens:
            backbone.trim(want)
        order, ran = [stage.name for stage in backbone.spec.stages], []
        for key, module in backbone.native.named_modules():
            if key and not [*module.children()]:
                module.register_forward_hook(lambda *_, key=key, to=ran, of=backbone: to.append(of.stage_of(key)))

        features = backbone(clip(), want)
        (features.pooled.sum() + (features.tokens.sum() if want.tokens else 0)).backward()

        assert [key for key, p in backbone.native.named_parameters() if p.requires_grad and p.grad is None] == []
        positions = [order.index(stage) for stage in ran]
        assert positions == sorted(positions)


def test_clips_of_another_length_and_maps_are_refused():
    backbone = build("videomae")

    with pytest.raises(ShapeError, match="takes 4 frames only, got 6"):
        backbone(torch.randn(1, 3, 6, 32, 32))
    with pytest.raises(CapabilityError, match="gives no map"):
        backbone(clip(), Want(maps=("s1",)))
