"""A trimmed backbone has and runs what is wanted and nothing else, and gives the very same numbers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import zoo
from zoo.contracts.features import Features, Want
from zoo.errors import CapabilityError
from zoo.spec import BackboneSpec

# One architecture of every family, and the side of the picture that it is shown.
QUICK = {
    "googlenet": 64,
    "mnasnet0_5": 64,
    "mobilenet_v3_small": 64,
    "resnet18": 64,
    "shufflenet_v2_x0_5": 64,
    "squeezenet1_0": 64,
    "lraspp_mobilenet_v3_large": 64,
    "ssdlite320_mobilenet_v3_large": 64,
}
SLOW = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": 64,
    "regnet_y_400mf": 64,
    "densenet121": 64,
    "alexnet": 64,
    "convnext_tiny": 64,
    "deeplabv3_resnet50": 64,
    "efficientnet_b0": 64,
    "efficientnet_v2_s": 64,
    "inception_v3": 96,
    "maxvit_t": 224,
    "mobilenet_v2": 64,
    "mobilenet_v3_large": 64,
    "retinanet_resnet50_fpn": 64,
    "ssd300_vgg16": 64,
    "swin_t": 64,
    "swin_v2_t": 64,
    "vgg11_bn": 64,
    "vgg16.IMAGENET1K_FEATURES": 64,
    "vit_b_32": 64,
}
COMPILED = ("densenet121", "resnet18", "lraspp_mobilenet_v3_large")
EACH = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def given(features: Features) -> dict[str, torch.Tensor]:
    fields = {"pooled": features.pooled, "tokens": features.tokens, "prefix": features.prefix, **features.maps}
    return {name: tensor for name, tensor in fields.items() if tensor is not None}


def single_wants(spec: BackboneSpec) -> list[Want]:
    tokens = [Want(pooled=False, tokens=True)] if "tokens" in spec.capabilities else []
    return [Want(), *tokens, *(Want(pooled=False, maps=(stage.name,)) for stage in spec.maps)]


@pytest.mark.thin(6)
@pytest.mark.parametrize("name", EACH)
def test_all_that_is_left_gets_a_gradient_and_the_features_are_the_same(make, name):
    backbone = make(name, **({"img_size": 64} if name == "vit_b_32" else {}))
    side = (QUICK | SLOW)[name]
    image = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    keys = backbone.state_dict().keys()
    everything = Want(tokens="tokens" in backbone.spec.capabilities, maps=tuple(one.name for one in backbone.spec.maps))
    whole = given(backbone(image, everything))  # with gradients, for attention takes another path without
    order, sizes = [stage.name for stage in backbone.spec.stages], []

    for want in single_wants(backbone.spec):
        trimmed = copy.deepcopy(backbone)
        trimmed.trim(want)
        features = given(trimmed(image, want))
        sum(tensor.square().sum() for tensor in features.values()).backward()

        assert all(torch.equal(tensor, whole[key]) for key, tensor in features.items()), want
        assert [key for key, weight in trimmed.named_parameters() if weight.grad is None] == [], want
        left = trimmed.state_dict().keys()
        assert left <= keys
        if want.maps:
            last = order.index(want.maps[0])
            assert left == {k for k in keys if order.index(backbone.stage_of(k.removeprefix("native."))) <= last}
            sizes.append(len(left))
    assert sizes == sorted(sizes)


def test_nothing_behind_the_last_wanted_map_is_run(make):
    backbone = make("resnet18")
    image = torch.rand(1, 3, 64, 64)
    backbone.trim(Want(pooled=False, maps=("s1", "s2")))
    ran = []
    for path, module in backbone.native.named_modules():
        if not isinstance(module, nn.Identity) and not list(module.children()):
            module.register_forward_hook(lambda module, inputs, output, path=path: ran.append(path))

    backbone(image, Want(pooled=False, maps=("s2",)))

    assert {path.split(".")[0] for path in ran} == {"conv1", "bn1", "relu", "maxpool", "layer1", "layer2"}


def test_hidden_layers_of_a_classifier_go_where_only_maps_are_wanted(make):
    backbone = make("mobilenet_v3_small")
    backbone.trim(Want(pooled=False, maps=("s4",)))

    assert not any(key.startswith("classifier") for key in backbone.native.state_dict())


@pytest.mark.parametrize("more", [Want(), Want(pooled=False, maps=("s3",)), Want(pooled=False, maps=("s1", "s2"))])
def test_what_was_not_kept_is_refused(make, more):
    backbone = make("resnet18")
    backbone.trim(Want(pooled=False, maps=("s2",)))

    with pytest.raises(CapabilityError, match=r"was cut to what gives s2, and .* is wanted; build it anew"):
        backbone(torch.rand(1, 3, 64, 64), more)
    with pytest.raises(CapabilityError, match="was cut to what gives s2"):
        backbone.trim(more)


@pytest.mark.parametrize("want", [Want(tokens=True), Want(maps=("s9",)), Want(pooled=False)])
def test_what_it_never_had_cannot_be_kept(make, want):
    with pytest.raises(CapabilityError):
        make("resnet18").trim(want)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mobilenet_v3_small", *(pytest.param(one, marks=pytest.mark.slow) for one in COMPILED)]
)
def test_a_compiler_sees_one_whole_graph_of_a_trimmed_backbone(make, name):
    want = Want(pooled=False, maps=("s2",))
    backbone, image = make(name), torch.rand(1, 3, 64, 64)
    expected = backbone(image, want).maps["s2"]
    backbone.trim(want)

    found = torch.compile(backbone, fullgraph=True, backend="eager")(image, want).maps["s2"]

    assert torch.equal(found, expected)


def test_a_trimmed_backbone_can_be_trimmed_further(make):
    backbone, image = make("resnet18"), torch.rand(1, 3, 64, 64)
    expected = backbone(image, Want(pooled=False, maps=("stem",))).maps["stem"]
    backbone.trim(Want(pooled=False, maps=("stem", "s2")))
    backbone.trim(Want(pooled=False, maps=("stem",)))

    assert torch.equal(backbone(image, Want(pooled=False, maps=("stem",))).maps["stem"], expected)
    assert set(backbone.native.state_dict()) == {
        key for key in backbone.native.state_dict() if key[:3] in ("con", "bn1")
    }


@pytest.mark.slow
def test_a_classifier_on_a_body_keeps_the_whole_body_and_learns_everywhere():
    model = zoo.build(
        "torchvision:lraspp_mobilenet_v3_large", {"type": "classifier", "classes": ["a", "b"]}, weights=None
    )
    model.train()

    outputs = model(torch.rand(2, 3, 64, 64))
    sum(output.sum() for output in outputs.values()).backward()

    assert all(weight.grad is not None for weight in model.parameters())
