"""Cutting off what nothing wanted runs through, on vision types of each kind."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from zoo.contracts.backbone import Backbone
from zoo.contracts.features import Features, Want
from zoo.errors import CapabilityError, ConfigError
from zoo.reference import Reference
from zoo.spec import BackboneSpec
from zoo_huggingface.anatomy import Anatomy, Idle
from zoo_huggingface.provider import HuggingFaceProvider

TABLE = runpy.run_path(str(Path(__file__).with_name("vision_cases.py")))
CASES = TABLE["CASES"]
FAST = {"vit", "swin", "resnet"}
KINDS = (
    *("aimv2_vision_model", "beit", "clip_vision_model", "convnext", "cvt", "detr", "dinov2", "dinov3_convnext"),
    *("efficientnet", "focalnet", "glpn", "hiera", "levit", "lw_detr_vit", "mobilevit", "pixtral", "poolformer", "pvt"),
    *("pvt_v2", "resnet", "rf_detr_dinov2", "sam_vision_model", "segformer", "siglip_vision_model", "swiftformer"),
    *("swin", "swin2sr", "textnet", "uvdoc_backbone", "vit", "vit_mae", "vitdet", "yolos"),
)
"""One type of each kind."""
PROVIDER = HuggingFaceProvider()
NAMES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in KINDS]


@cache
def spec_of(name: str) -> BackboneSpec:
    fields = CASES[name].fields
    options = {key: json.dumps(value) if isinstance(value, (list, dict)) else value for key, value in fields.items()}
    return PROVIDER.spec(Reference("hf", name, options=options))


def build(name: str) -> Backbone:
    torch.manual_seed(0)
    return PROVIDER.build(spec_of(name), weights=None).eval()


def wants(spec: BackboneSpec) -> list[Want]:
    """The pooled vector; the tokens; one map from the middle."""
    found = [Want()]
    if "tokens" in spec.capabilities:
        found.append(Want(pooled=False, tokens=True))
    if spec.maps:
        found.append(Want(pooled=False, maps=(spec.maps[len(spec.maps) // 2].name,)))
    return found


def given(features: Features) -> dict[str, torch.Tensor]:
    """Name the tensors that a pass gave."""
    fields = {"pooled": features.pooled, "tokens": features.tokens, "prefix": features.prefix, **features.maps}
    return {name: tensor for name, tensor in fields.items() if tensor is not None}


@pytest.mark.thin(6)
@pytest.mark.parametrize("name", NAMES)
def test_a_cut_backbone_gives_the_same_and_each_parameter_left_gets_a_gradient(name):
    spec, image = spec_of(name), torch.randn(2, 3, *CASES[name].size)
    for want in wants(spec):
        whole, part = build(name), build(name)
        part.native.load_state_dict(whole.native.state_dict())

        part.trim(want)

        with torch.no_grad():
            expected, found = given(whole(image, want)), given(part(image, want))
        assert list(found) == list(expected)
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        sum(tensor.sum() for tensor in given(part.train()(image, want)).values()).backward()
        assert [key for key, p in part.native.named_parameters() if p.requires_grad and p.grad is None] == []
        left, every = set(part.native.state_dict()), set(whole.native.state_dict())
        assert left <= every


@pytest.mark.parametrize("name", ["vit", "swin", "resnet"])
def test_blocks_above_the_map_that_is_wanted_are_gone_and_do_not_run(name):
    backbone = build(name)
    before = dict(backbone.native.named_parameters())

    backbone.trim(Want(pooled=False, maps=("s2",)))

    after = dict(backbone.native.named_parameters())
    stages = {backbone.stage_of(key) for key in after}
    assert stages == {"stem", "s1", "s2"}
    assert set(after) == {key for key in before if backbone.stage_of(key) in stages}
    assert backbone.native_files() == {}


@pytest.mark.slow
def test_a_cut_backbone_compiles_to_one_graph_exports_and_checkpoints():
    class Wanted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = build("vit")
            self.backbone.trim(Want(pooled=False, maps=("s2",)))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.backbone(image, Want(pooled=False, maps=("s2",))).maps["s2"]

    wanted, image = Wanted().eval(), torch.randn(2, 3, 32, 32)
    plain = wanted(image)

    compiled = torch.compile(wanted, backend="eager", fullgraph=True)(image)
    exported = torch.export.export(wanted, (image,)).module()(image)

    assert torch.allclose(compiled, plain, atol=1e-6)
    assert torch.allclose(exported, plain, atol=1e-6)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("want", [Want(maps=("s1", "s2")), Want(pooled=False, maps=("s2",))], ids=["whole", "cut"])
def test_a_module_that_breaks_its_graph_compiles_to_equal_features(want):
    backbone, image = build("vit"), torch.randn(2, 3, 32, 32)
    backbone.trim(want)
    backbone.native.get_submodule("layers.0").register_forward_hook(lambda *_: torch._dynamo.graph_break())
    plain = backbone(image, want)

    compiled = torch.compile(lambda batch: backbone(batch, want), backend="eager")(image)

    assert all(torch.allclose(compiled.maps[stage], plain.maps[stage], atol=1e-6) for stage in want.maps)
    assert not want.pooled or torch.allclose(compiled.pooled, plain.pooled, atol=1e-6)


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_gradient_checkpointing_of_a_cut_backbone_changes_no_gradient(name):
    plain, saving = build(name), build(name)
    saving.native.load_state_dict(plain.native.state_dict())
    image, want = torch.randn(2, 3, *CASES[name].size), Want(pooled=False, maps=("s2",))
    for backbone in (plain, saving):
        backbone.trim(want)

    assert saving.set_grad_checkpointing(True)
    for backbone in (plain, saving):
        backbone.train()
        for module in backbone.modules():
            if isinstance(module, torch.nn.Dropout) or "DropPath" in type(module).__name__:
                module.eval()
        backbone(image, want).maps["s2"].sum().backward()

    pairs = zip(plain.native.parameters(), saving.native.parameters(), strict=True)
    assert all(torch.allclose(a.grad, b.grad, atol=1e-6) for a, b in pairs)


def test_what_the_backbone_cannot_give_cannot_be_kept():
    with pytest.raises(CapabilityError, match="gives no map 's9'"):
        build("vit").trim(Want(maps=("s9",)))


def test_what_was_cut_off_is_not_there_to_be_asked_for():
    backbone = build("vit")
    backbone.trim(Want(pooled=False, maps=("s2",)))

    with pytest.raises(CapabilityError, match="was cut to what gives"):
        backbone(torch.randn(1, 3, 32, 32), Want())


def test_what_a_strangers_spec_says_of_idle_parts_is_not_believed():
    spec = spec_of("vit")
    for idle in ({"s2": {"gone": ["layers.0.nothing.there"], "resting": []}}, {"s2": ["layers.0"]}, [1]):
        forged = replace(spec, construction={**spec.construction, "idle": idle})

        with pytest.raises(ConfigError, match="construction"):
            PROVIDER.build(forged, weights=None).trim(Want(pooled=False, maps=("s2",)))


def test_what_is_idle_for_two_outputs_is_what_is_idle_for_each():
    anatomy = Anatomy(
        (),
        idle={
            "pooled": Idle(("head.drop", "late.a"), ("scale",)),
            "tokens": Idle(("head", "late"), ("bias",)),
        },
    )

    assert anatomy.idle_for(Want()) == Idle(("head.drop", "late.a"), ("scale",))
    assert anatomy.idle_for(Want(tokens=True)) == Idle(("head.drop", "late.a"), ())
    assert anatomy.idle_for(Want(pooled=False, tokens=True)) == Idle(("head", "late"), ("bias",))
    assert anatomy.idle_for(Want(embed=True)) == Idle()
