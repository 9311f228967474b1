"""What a torchvision backbone promises beyond the numbers: taps that keep to one pass, copies, compilers."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torchvision
from torchvision.ops import FrozenBatchNorm2d

from zoo.contracts.features import Want
from zoo.errors import CapabilityError, ShapeError
from zoo.spec import BackboneSpec
from zoo.strict import from_json, to_json

MAPS = Want(maps=("stem", "s2", "s4"))


@pytest.fixture
def image():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))


@pytest.mark.slow
def test_tokens_come_with_the_class_token_apart_and_their_grid(make):
    backbone = make("vit_b_32", img_size=96)
    image = torch.rand(2, 3, 96, 96)
    library = torchvision.models.get_model("vit_b_32", image_size=96).eval()
    library.load_state_dict(backbone.native.state_dict(), strict=False)
    seen = []
    library.encoder.register_forward_hook(lambda module, inputs, output: seen.append(output))
    library(image)

    features = backbone(image, Want(tokens=True, maps=("s4",)))

    assert features.grid == (3, 3)
    assert torch.equal(features.prefix, seen[0][:, :1])
    assert torch.equal(features.tokens, seen[0][:, 1:])
    assert torch.equal(features.pooled, features.prefix[:, 0])
    assert features.maps["s4"].shape == (2, backbone.spec.token_dim, 3, 3)


def test_a_pass_that_raises_leaves_nothing_behind(make, image):
    backbone = make("resnet18")
    before = backbone(image, MAPS)

    def fail(module, inputs):
        raise RuntimeError("out of memory")

    handle = backbone.native.layer3.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        backbone(image, MAPS)
    handle.remove()
    hooks = len(backbone.native.layer4._forward_hooks)
    after = backbone(image, MAPS)

    assert all(torch.equal(before.maps[name], after.maps[name]) for name in before.maps)
    assert len(backbone.native.layer4._forward_hooks) == hooks
    assert backbone(image).maps == {}


@pytest.mark.slow
def test_threads_that_share_a_backbone_each_get_their_own_maps(make):
    backbone = make("resnet18")
    pictures = [torch.full((1, 3, 64, 64), float(i)) for i in range(8)]
    with torch.no_grad():
        expected = [backbone(picture, MAPS).maps["s4"] for picture in pictures]

    @torch.no_grad()
    def run(number: int) -> bool:
        given = backbone(pictures[number], MAPS if number % 4 else Want()).maps
        return not given if number % 4 == 0 else torch.equal(given["s4"], expected[number])

    with ThreadPoolExecutor(4) as pool:
        right = list(pool.map(run, [i % 8 for i in range(32)]))

    assert all(right)


@pytest.mark.slow
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))], ids=["deepcopy", "pickle"])
def test_a_copy_takes_its_own_maps(make, image, copied):
    backbone = make("resnet18")
    twin = copied(backbone)
    with torch.no_grad():
        twin.native.conv1.weight.zero_()

    assert twin(image, MAPS).maps["stem"].abs().max() == twin.native.bn1.bias.relu().max()
    assert not torch.equal(twin(image, MAPS).maps["s4"], backbone(image, MAPS).maps["s4"])


@pytest.mark.slow
@pytest.mark.parametrize("want", [Want(), MAPS], ids=["pooled", "maps"])
def test_a_compiler_sees_one_whole_graph(make, image, want):
    backbone = make("resnet18")
    compiled = torch.compile(backbone, fullgraph=True, backend="eager")

    features = compiled(image, want)

    expected = backbone(image, want)
    assert torch.equal(features.pooled, expected.pooled)
    assert all(torch.equal(features.maps[name], expected.maps[name]) for name in want.maps)


@pytest.mark.slow
def test_an_exported_program_gives_the_same_features(make, image):
    class Fixed(torch.nn.Module):
        """What a model does: the wanted features are fixed when it is built."""

        def __init__(self, backbone):
            super().__init__()
            self.backbone = backbone

        def forward(self, image):
            return self.backbone(image, Want(tokens=True, maps=("s2",)))

    fixed = Fixed(make("vit_b_32", img_size=64))

    features = torch.export.export(fixed, (image,)).module()(image)

    expected = fixed(image)
    assert torch.equal(features.tokens, expected.tokens)
    assert torch.equal(features.maps["s2"], expected.maps["s2"])


@pytest.mark.slow
def test_gradients_flow_from_maps_to_the_stem(make, image):
    backbone = make("densenet121").train()

    backbone(image, Want(pooled=False, maps=("s4",))).maps["s4"].sum().backward()

    assert backbone.native.features.conv0.weight.grad.abs().sum() > 0


@pytest.mark.slow
def test_densenet_recomputes_with_equal_gradients_and_others_say_no(make, image):
    backbone = make("densenet121")
    conv = backbone.native.features.conv0

    def gradient():
        conv.weight.grad = None
        backbone(image).pooled.sum().backward()
        return conv.weight.grad.clone()

    plain = gradient()

    assert backbone.set_grad_checkpointing(True) is True
    torch.testing.assert_close(gradient(), plain)
    assert backbone.set_grad_checkpointing(False) is False
    assert make("resnet18").set_grad_checkpointing(True) is False


def test_a_replaced_stage_is_named_when_its_map_is_wanted(make, image):
    backbone = make("resnet18")
    backbone.native.layer2 = torch.nn.Sequential(*backbone.native.layer2)

    with pytest.raises(CapabilityError, match="could not take 's2'"):
        backbone(image, MAPS)


@pytest.mark.slow
def test_auxiliary_classifiers_are_neither_kept_nor_run_in_training(make):
    backbone = make("inception_v3").train()

    features = backbone(torch.rand(2, 3, 96, 96))

    assert isinstance(features.pooled, torch.Tensor)
    assert backbone.native.AuxLogits is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("resnet18", (3, 64, 64), "rank 3"),
        ("resnet18", (1, 4, 64, 64), "in_channels=4"),
        ("vit_b_32", (1, 3, 64, 64), "224×224 pixels only"),
        ("inception_v3", (1, 3, 64, 64), "75×75 pixels or more"),
    ],
)
def test_a_picture_that_does_not_fit_is_refused_with_what_would(make, name, shape, message):
    backbone = make(name)

    with pytest.raises(ShapeError, match=message):
        backbone(torch.zeros(shape))


@pytest.mark.parametrize("want", [Want(tokens=True), Want(maps=("s9",))])
def test_what_it_does_not_have_is_refused(make, image, want):
    with pytest.raises(CapabilityError):
        make("resnet18")(image, want)


def rebuilt(config: dict) -> torch.nn.Module:
    """Follow the words of ``native_files`` with torchvision alone."""
    body = {"weights_backbone": None} if config["inside"] else {}
    whole = torchvision.models.get_model(config["architecture"], **body, **config["arguments"])
    module = whole.get_submodule(config["inside"])
    for path in config["dropped"]:
        parent, _, name = path.rpartition(".")
        delattr(module.get_submodule(parent), name)
    old = module.get_submodule(config["conv"])
    module.set_submodule(
        config["conv"],
        torch.nn.Conv2d(
            config["in_channels"], old.out_channels, old.kernel_size, old.stride, old.padding, bias=old.bias is not None
        ),
    )
    for path, norm in list(module.named_modules()):
        if config["frozen_norm"] is not None and isinstance(norm, torch.nn.BatchNorm2d):
            module.set_submodule(path, FrozenBatchNorm2d(norm.num_features, eps=config["frozen_norm"]))
    for path in config["identity"]:
        module.set_submodule(path, torch.nn.Identity())
    return module.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "googlenet", "squeezenet1_1", "vit_b_32", "mobilenet_v3_small"])
def test_plain_torchvision_rebuilds_the_module_from_its_native_files(make, name):
    options = {"img_size": 64} if name == "vit_b_32" else {}
    backbone = make(name, in_channels=2, **options)
    image = torch.rand(2, 2, *backbone.spec.inputs[0].size)

    again = rebuilt(backbone.native_files()["config.json"])
    again.load_state_dict(backbone.native.state_dict(), strict=True)

    assert torch.equal(again(image), backbone(image).pooled)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "last"), [("resnet18", "s2"), ("fasterrcnn_resnet50_fpn", "s3"), ("ssdlite320_mobilenet_v3_large", "s4")]
)
def test_the_native_files_of_a_body_and_of_a_trimmed_backbone_say_what_is_there(make, image, name, last):
    backbone = make(name)
    backbone.trim(Want(pooled=False, maps=(last,)))

    again = rebuilt(backbone.native_files()["config.json"])
    again.load_state_dict(backbone.native.state_dict(), strict=True)
    seen = []
    again.get_submodule(backbone.spec.stage(last).module).register_forward_hook(
        lambda m, i, output: seen.append(output)
    )
    again.features(image) if name.startswith("ssd") else again(image)

    assert torch.equal(seen[0], backbone(image, Want(pooled=False, maps=(last,))).maps[last])


@pytest.mark.slow
def test_a_spec_from_json_builds_the_same_module_without_a_network(provider, make):
    backbone = make("inception_v3", in_channels=1, dropout=0.1)
    spec = from_json(BackboneSpec, to_json(backbone.spec))

    again = provider.build(spec, weights=None)

    assert spec == backbone.spec
    assert again.native.state_dict().keys() == backbone.native.state_dict().keys()
    assert again.native.dropout.p == 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["regnet_y_400mf", "swin_v2_t", "mnasnet0_5"])
def test_a_module_built_on_the_meta_device_takes_its_tensors_by_assignment(provider, make, name):
    backbone = make(name)
    image = torch.rand(1, 3, 64, 64)

    with torch.device("meta"):
        hollow = provider.build(backbone.spec, weights=None)
    assert all(tensor.is_meta for tensor in hollow.state_dict().values())
    hollow.load_state_dict(dict(backbone.state_dict()), strict=True, assign=True)

    assert torch.equal(hollow.eval()(image).pooled, backbone(image).pooled)
