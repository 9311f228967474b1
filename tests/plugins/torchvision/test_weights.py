"""Pretrained weights, with the download replaced by a state dict as torchvision's own files have it."""

from __future__ import annotations

import re
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torchvision.models import WeightsEnum
from torchvision.models.vision_transformer import interpolate_embeddings

from zoo.errors import WeightsError
from zoo.reference import Reference


@pytest.fixture
def serve(monkeypatch):
    """Let every weights enum serve a state dict; give the keywords it was asked with."""
    asked = []

    def serving(state):
        def get_state_dict(self, **keywords):
            asked.append(keywords)
            return dict(state)

        monkeypatch.setattr(WeightsEnum, "get_state_dict", get_state_dict)
        return asked

    return serving


def library(name: str, **arguments) -> nn.Module:
    torch.manual_seed(3)
    return torchvision.models.get_model(name, **arguments).eval()


def same(backbone, model: nn.Module, dropped: tuple[str, ...]) -> bool:
    expected = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith(dropped)}
    own = backbone.native.state_dict()
    return own.keys() == expected.keys() and all(torch.equal(own[key], expected[key]) for key in own)


def test_pretrained_weights_are_asked_for_with_their_hash_checked_and_loaded_whole(make, serve):
    model = library("resnet18")
    asked = serve(model.state_dict())

    backbone = make("resnet18", weights="pretrained")

    assert same(backbone, model, ("fc.",))
    assert asked == [{"check_hash": True, "weights_only": True}]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dropped"), [("googlenet", ("fc.", "aux1.", "aux2.")), ("inception_v3", ("fc.", "AuxLogits."))]
)
def test_auxiliary_classifiers_in_the_file_are_left_out_and_all_else_is_strict(make, serve, name, dropped):
    model = library(name, aux_logits=True, init_weights=False, transform_input=True)
    state = model.state_dict()
    serve(state)
    image = torch.rand(1, 3, 96, 96)

    backbone = make(name, weights="pretrained")

    assert same(backbone, model, dropped)
    assert torch.equal(model.fc(backbone(image).pooled), model(image))
    serve({key: tensor for key, tensor in state.items() if not key.startswith("conv1.conv.w") and "2b" not in key})
    with pytest.raises(WeightsError, match="missing"):
        make(name, weights="pretrained")


@pytest.mark.slow
def test_old_densenet_files_with_dots_in_layer_names_are_read(make, serve):
    model = library("densenet121")
    pattern = re.compile(r"(denselayer\d+\.(?:norm|conv))([12]\.)")
    old = {pattern.sub(r"\1.\2", key): tensor for key, tensor in model.state_dict().items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    serve(old)

    assert same(make("densenet121", weights="pretrained"), model, ("classifier.",))


@pytest.mark.slow
def test_old_vit_files_with_the_former_names_of_the_mlp_are_read(make, serve):
    model = library("vit_b_32")
    old = {
        key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): tensor
        for key, tensor in model.state_dict().items()
    }
    serve(old)

    assert same(make("vit_b_32", weights="pretrained"), model, ("heads.",))


def test_old_files_without_batch_counts_are_read_as_torch_reads_them(make, serve):
    model = library("resnet18")
    serve({key: tensor for key, tensor in model.state_dict().items() if "num_batches_tracked" not in key})

    assert same(make("resnet18", weights="pretrained"), model, ("fc.",))


def test_mnasnet_loads_although_a_plain_dict_has_no_version(make, serve):
    model = library("mnasnet0_5")
    serve(model.state_dict())

    assert same(make("mnasnet0_5", weights="pretrained"), model, ("classifier.",))


@pytest.mark.slow
def test_another_picture_size_interpolates_the_position_embeddings_as_the_library_does(make, serve):
    model = library("vit_b_32")
    serve(model.state_dict())

    backbone = make("vit_b_32", weights="pretrained", img_size=96)

    expected = interpolate_embeddings(96, 32, dict(model.state_dict()))["encoder.pos_embedding"]
    assert torch.equal(backbone.native.encoder.pos_embedding, expected)


@pytest.mark.slow
def test_one_channel_sums_the_kernel_so_that_a_grey_picture_gives_the_rgb_response(make, serve):
    serve(library("resnet18").state_dict())
    rgb, grey = make("resnet18", weights="pretrained"), make("resnet18", weights="pretrained", in_channels=1)
    picture = torch.rand(2, 1, 64, 64)

    torch.testing.assert_close(grey(picture).pooled, rgb(picture.expand(-1, 3, -1, -1)).pooled)
    torch.testing.assert_close(grey.native.conv1.weight, rgb.native.conv1.weight.sum(1, keepdim=True))


@pytest.mark.slow
def test_multiples_of_three_channels_share_the_kernel_so_that_equal_channels_give_the_rgb_response(make, serve):
    serve(library("resnet18").state_dict())
    rgb, six = make("resnet18", weights="pretrained"), make("resnet18", weights="pretrained", in_channels=6)
    picture = torch.rand(2, 1, 64, 64)

    torch.testing.assert_close(six(picture.expand(-1, 6, -1, -1)).pooled, rgb(picture.expand(-1, 3, -1, -1)).pooled)


@pytest.mark.slow
def test_grey_pictures_pass_through_googlenet_s_own_normalisation(make, serve):
    """The module shifts RGB inside; for one channel the shift stands in the preprocessing instead."""
    from PIL import Image

    serve(library("googlenet", init_weights=False, aux_logits=True).state_dict())
    rgb, grey = make("googlenet", weights="pretrained"), make("googlenet", weights="pretrained", in_channels=1)
    picture = Image.linear_gradient("L")

    ours = grey(grey.spec.preprocessing.apply(picture)[None]).pooled
    theirs = rgb(rgb.spec.preprocessing.apply(picture)[None]).pooled

    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_without_a_network_the_file_the_reason_and_the_way_out_are_named(make, monkeypatch):
    def unreachable(self, **keywords):
        raise URLError("Name or service not known")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", unreachable)

    with pytest.raises(WeightsError) as caught:
        make("resnet18", weights="pretrained")

    for piece in ("torchvision:resnet18.IMAGENET1K_V1", "resnet18-f37072fd.pth", "Name or service", "pypi:"):
        assert piece in str(caught.value)
    assert isinstance(caught.value.__cause__, URLError)


def test_a_reference_without_a_tag_has_no_pretrained_weights(provider):
    spec = provider.spec(Reference("torchvision", "resnet50"))

    assert spec.weights is None
    with pytest.raises(WeightsError, match="IMAGENET1K_V2, IMAGENET1K_V1"):
        provider.build(spec, weights="pretrained")


@pytest.mark.parametrize("with_classifier", [True, False])
def test_a_local_safetensors_file_is_loaded_with_or_without_a_classifier(make, tmp_path, with_classifier):
    model = library("mnasnet0_5")
    state = {k: t for k, t in model.state_dict().items() if with_classifier or not k.startswith("classifier")}
    save_file(state, tmp_path / "model.safetensors")

    backbone = make("mnasnet0_5", weights=tmp_path / "model.safetensors")

    assert same(backbone, model, ("classifier.",))


def test_a_file_of_another_architecture_is_refused(make, tmp_path):
    save_file(library("resnet34").state_dict(), tmp_path / "model.safetensors")

    with pytest.raises(WeightsError, match="left over"):
        make("resnet18", weights=tmp_path / "model.safetensors")
