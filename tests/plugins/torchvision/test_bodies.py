"""The bodies of segmentation and detection models give, bit for bit, what the library's own ``model.backbone`` does."""

from __future__ import annotations

import logging
from functools import lru_cache

import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.models import WeightsEnum
from torchvision.ops import FrozenBatchNorm2d

from zoo.contracts.features import Want
from zoo.errors import WeightsError
from zoo.reference import Reference

RESNET = {"stem": "relu", "s1": "layer1", "s2": "layer2", "s3": "layer3", "s4": "layer4"}
DILATED = {"s1": "1", "s2": "3", "s3": "4", "s4": "6", "s5": "12", "s6": "16"}
STRIDED = {"s1": "1", "s2": "3", "s3": "6", "s4": "12", "s5": "13", "s6": "16"}

# Architecture: the body in the library's model, the stages in it, and the reductions of the stages.
CASES = {
    "deeplabv3_mobilenet_v3_large": ("backbone", DILATED, (2, 4, 8, 8, 16, 16)),
    "deeplabv3_resnet101": ("backbone", RESNET, (2, 4, 8, 8, 8)),
    "deeplabv3_resnet50": ("backbone", RESNET, (2, 4, 8, 8, 8)),
    "fcn_resnet101": ("backbone", RESNET, (2, 4, 8, 8, 8)),
    "fcn_resnet50": ("backbone", RESNET, (2, 4, 8, 8, 8)),
    "lraspp_mobilenet_v3_large": ("backbone", DILATED, (2, 4, 8, 8, 16, 16)),
    "fasterrcnn_mobilenet_v3_large_320_fpn": ("backbone.body", STRIDED, (2, 4, 8, 16, 32, 32)),
    "fasterrcnn_mobilenet_v3_large_fpn": ("backbone.body", STRIDED, (2, 4, 8, 16, 32, 32)),
    "fasterrcnn_resnet50_fpn": ("backbone.body", RESNET, (2, 4, 8, 16, 32)),
    "fasterrcnn_resnet50_fpn_v2": ("backbone.body", RESNET, (2, 4, 8, 16, 32)),
    "fcos_resnet50_fpn": ("backbone.body", RESNET, (2, 4, 8, 16, 32)),
    "keypointrcnn_resnet50_fpn": ("backbone.body", RESNET, (2, 4, 8, 16, 32)),
    "maskrcnn_resnet50_fpn": ("backbone.body", RESNET, (2, 4, 8, 16, 32)),
    "maskrcnn_resnet50_fpn_v2": ("backbone.body", RESNET, (2, 4, 8, 16, 32)),
    "retinanet_resnet50_fpn": ("backbone.body", RESNET, (2, 4, 8, 16, 32)),
    "retinanet_resnet50_fpn_v2": ("backbone.body", RESNET, (2, 4, 8, 16, 32)),
    "ssd300_vgg16": (
        "backbone",
        {"s1": "features.4", "s2": "features.9", "s3": "features", "s4": "extra.0"},
        (2, 4, 8, 16),
    ),
    "ssdlite320_mobilenet_v3_large": (
        "backbone",
        {"s1": "features.0.1", "s2": "features.0.3", "s3": "features.0.6", "s4": "features.0", "s5": "features.1"},
        (2, 4, 8, 16, 32),
    ),
}
QUICK = {
    "deeplabv3_resnet50",
    "lraspp_mobilenet_v3_large",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "maskrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
    "ssdlite320_mobilenet_v3_large",
}
EACH = [pytest.param(name, id=name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in CASES]


@lru_cache(maxsize=1)
def library(name: str) -> nn.Module:
    """Build the library's whole model, its batch statistics no longer 0 and 1."""
    torch.manual_seed(0)
    built = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return built.eval()


def picture(name: str) -> torch.Tensor:
    side = 300 if name == "ssd300_vgg16" else 96  # its last layers, which are not ours, take no less
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def serve(monkeypatch):
    """Let every weights enum serve the state dict of a model of ours."""

    def serving(state):
        monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **keywords: dict(state))

    return serving


@pytest.fixture
def plain(provider):
    """Build a body without a tag, with the library's numbers in it."""

    def built(name: str):
        backbone = provider.build(provider.spec(Reference("torchvision", name)), weights=None).eval()
        own = library(name).get_submodule(CASES[name][0]).state_dict()
        backbone.native.load_state_dict({key: own[key] for key in backbone.native.state_dict()}, strict=True)
        return backbone

    return built


@pytest.mark.thin(6)
@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", EACH)
def test_the_maps_are_what_the_library_s_backbone_computes_inside(plain, name):
    model, backbone = library(name), plain(name)
    inside, paths, _ = CASES[name]
    image = picture(name)
    body, seen = model.get_submodule(inside), {}
    handles = [
        body.get_submodule(path).register_forward_hook(lambda m, i, out, stage=stage: seen.update({stage: out.clone()}))
        for stage, path in paths.items()
    ]
    given = model.backbone(image)
    for handle in handles:
        handle.remove()

    features = backbone(image, Want(maps=tuple(paths)))

    assert [stage.name for stage in backbone.spec.maps] == list(paths)
    for stage, expected in seen.items():
        assert torch.equal(features.maps[stage], expected), stage
    last = list(paths)[-1]
    assert torch.equal(features.pooled, features.maps[last].mean(dim=(2, 3)))
    assert torch.equal(backbone(image).pooled, features.pooled)
    if name.startswith("ssd"):
        outer = {"ssd300_vgg16": {"1": "s4"}, "ssdlite320_mobilenet_v3_large": {"0": "s4", "1": "s5"}}[name]
        assert all(torch.equal(given[key], features.maps[stage]) for key, stage in outer.items())
    else:
        stages = {path: stage for stage, path in paths.items()}
        own = body(image)
        assert own.keys() == set(body.return_layers.values())
        assert all(torch.equal(own[key], features.maps[stages[path]]) for path, key in body.return_layers.items())
        assert inside == "backbone.body" or all(torch.equal(own[key], given[key]) for key in given)


@pytest.mark.slow
def test_the_first_output_of_an_ssd_is_its_third_stage_rescaled(plain):
    model, backbone = library("ssd300_vgg16"), plain("ssd300_vgg16")
    image = torch.rand(1, 3, 300, 300)

    with torch.no_grad():
        stage = backbone(image, Want(pooled=False, maps=("s3",))).maps["s3"]
        expected = model.backbone.scale_weight.view(1, -1, 1, 1) * nn.functional.normalize(stage)

        assert torch.equal(model.backbone(image)["0"], expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_reductions_are_those_of_the_dilated_body(provider, name):
    spec = provider.spec(Reference("torchvision", name))

    assert tuple(stage.reduction for stage in spec.maps) == CASES[name][2]
    assert spec.pooling == "global average of the last map"
    assert spec.pooled_dim == spec.maps[-1].channels


@pytest.mark.slow
@pytest.mark.parametrize("name", [one for one in CASES if "fpn" in one or "ssd" in one])
def test_the_preprocessing_is_the_detector_s_own_transform(provider, name):
    """The library resizes by a factor and cuts to whole pixels, so its shorter side may be a pixel less."""
    with torch.device("meta"):
        library = torchvision.models.get_model(name, weights=None, weights_backbone=None).transform.eval()
    entry = torchvision.models.get_model_weights(name).DEFAULT
    recipe = provider.spec(Reference("torchvision", name)).preprocessing
    rough = Image.effect_noise((40, 30), 90).convert("RGB").resize((400, 320), Image.Resampling.BICUBIC)

    ours = recipe.apply(rough)
    theirs = library([entry.transforms()(rough)])[0]

    assert (recipe.mean, recipe.std) == (tuple(library.image_mean), tuple(library.image_std))
    if library.fixed_size is None:
        assert recipe.resize == (library.min_size[-1], library.max_size)
    height, width = theirs.image_sizes[0]
    assert max(abs(ours.shape[-2] - height), abs(ours.shape[-1] - width)) <= 1
    if ours.shape[-2:] == (height, width):
        torch.testing.assert_close(ours, theirs.tensors[0, :, :height, :width], rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_a_segmentation_model_s_pictures_keep_their_shape_unless_a_size_is_asked_for(provider):
    entry = torchvision.models.get_model_weights("fcn_resnet50").DEFAULT
    picture = Image.effect_noise((300, 200), 90).convert("RGB")

    free = provider.spec(Reference("torchvision", "fcn_resnet50"))
    square = provider.spec(Reference("torchvision", "fcn_resnet50", options={"img_size": 128}))

    assert torch.equal(free.preprocessing.apply(picture), entry.transforms()(picture))
    assert square.preprocessing.apply(picture).shape == (3, 128, 128)
    assert square.inputs[0].size == (128, 128)


# --- weights


def whole_state(name: str, tag: str, serve) -> nn.Module:
    """Let the library itself load a state dict as the pretrained weights of a tag, frozen norms and all."""
    plain = library(name)
    state = {key: tensor for key, tensor in plain.state_dict().items()}
    serve(state)
    if name.startswith(("deeplabv3", "fcn")):  # those files also have an auxiliary classifier
        state |= torchvision.models.get_model(name, weights_backbone=None, aux_loss=True).state_dict() | state
        serve(state)
    elif name.startswith("keypoint"):
        state["roi_heads.keypoint_predictor.kps_score_lowres.weight"] = torch.zeros(512, 17, 4, 4)
    return torchvision.models.get_model(name, weights=tag).eval()


@pytest.mark.thin(6)
@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "tag", "epsilon"),
    [
        ("deeplabv3_resnet50", "COCO_WITH_VOC_LABELS_V1", None),
        ("maskrcnn_resnet50_fpn", "COCO_V1", 0.0),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", "COCO_V1", 1e-5),
        pytest.param("retinanet_resnet50_fpn", "COCO_V1", 0.0, marks=pytest.mark.slow),
        pytest.param("fasterrcnn_resnet50_fpn", "COCO_V1", 0.0, marks=pytest.mark.slow),
        pytest.param("keypointrcnn_resnet50_fpn", "COCO_V1", 0.0, marks=pytest.mark.slow),
        pytest.param("keypointrcnn_resnet50_fpn", "COCO_LEGACY", 1e-5, marks=pytest.mark.slow),
        pytest.param("fcos_resnet50_fpn", "COCO_V1", 1e-5, marks=pytest.mark.slow),
        pytest.param("fasterrcnn_resnet50_fpn_v2", "COCO_V1", None, marks=pytest.mark.slow),
        pytest.param("maskrcnn_resnet50_fpn_v2", "COCO_V1", None, marks=pytest.mark.slow),
        pytest.param("retinanet_resnet50_fpn_v2", "COCO_V1", None, marks=pytest.mark.slow),
        pytest.param("fasterrcnn_mobilenet_v3_large_fpn", "COCO_V1", 1e-5, marks=pytest.mark.slow),
        pytest.param("ssd300_vgg16", "COCO_V1", None, marks=pytest.mark.slow),
        ("ssdlite320_mobilenet_v3_large", "COCO_V1", None),
        pytest.param("lraspp_mobilenet_v3_large", "COCO_WITH_VOC_LABELS_V1", None, marks=pytest.mark.slow),
    ],
)
def test_pretrained_bodies_are_those_that_the_library_loads(make, serve, caplog, name, tag, epsilon):
    loaded = whole_state(name, tag, serve)
    image = picture(name)

    with caplog.at_level(logging.INFO, logger="zoo"):
        backbone = make(f"{name}.{tag}", weights="pretrained")

    own = loaded.get_submodule(CASES[name][0])
    theirs = own.state_dict()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in backbone.native.state_dict().items())
    norms = {module.eps for module in backbone.native.modules() if isinstance(module, FrozenBatchNorm2d)}
    assert norms == ({epsilon} if epsilon is not None else set())
    last = backbone.spec.maps[-1]
    seen = []
    own.get_submodule(last.module).register_forward_hook(lambda module, inputs, output: seen.append(output))
    own(image)
    assert torch.equal(backbone(image, Want(pooled=False, maps=(last.name,))).maps[last.name], seen[0])
    assert "Left out of the weights: " in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("outer", ["backbone.body.", "body.", ""])
def test_a_weights_file_may_be_of_the_model_its_backbone_or_the_body(make, tmp_path, outer):
    model = library("fasterrcnn_mobilenet_v3_large_320_fpn")
    part = model.get_submodule({"backbone.body.": "", "body.": "backbone", "": "backbone.body"}[outer])
    save_file(part.state_dict(), tmp_path / "model.safetensors")

    backbone = make("fasterrcnn_mobilenet_v3_large_320_fpn", weights=tmp_path / "model.safetensors")

    expected = model.backbone.body.state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in backbone.native.state_dict().items())


@pytest.mark.slow
def test_tensors_that_belong_to_nothing_in_the_model_are_an_error(make, tmp_path):
    state = library("lraspp_mobilenet_v3_large").state_dict() | {"backbone.surplus": torch.zeros(1)}
    save_file(state, tmp_path / "model.safetensors")

    with pytest.raises(WeightsError, match=r"left over \(first 'backbone.surplus'|left over.*surplus"):
        make("lraspp_mobilenet_v3_large", weights=tmp_path / "model.safetensors")


@pytest.mark.slow
@torch.no_grad()
def test_weights_that_hold_features_only_give_no_hidden_layers_and_the_mean_of_the_last_map(make, serve):
    model = torchvision.models.vgg16(weights=None)
    state = model.state_dict()
    serve({key: tensor * torch.nan if key.startswith("classifier") else tensor for key, tensor in state.items()})
    image = torch.rand(1, 3, 64, 64)

    backbone = make("vgg16.IMAGENET1K_FEATURES", weights="pretrained")

    assert torch.equal(backbone(image).pooled, model.features(image).mean(dim=(2, 3)))
    assert set(backbone.native.state_dict()) == {key for key in state if key.startswith("features.")}
