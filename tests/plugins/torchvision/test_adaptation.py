"""Other channels, sizes and rates with the pretrained weights kept, and the buffers of a natively built model."""

from __future__ import annotations

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from timm.models._manipulate import adapt_input_conv
from torch import nn
from torchvision.models import WeightsEnum
from torchvision.ops import StochasticDepth

from zoo.errors import WeightsError
from zoo.reference import Reference
from zoo_torchvision.weights import widened

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("channels", [1, 2, 4, 5, 13])
def test_the_first_kernel_is_adapted_as_timm_does(channels, dtype):
    kernel = torch.randn(8, 3, 7, 7, generator=torch.Generator().manual_seed(0)).to(dtype)

    assert torch.equal(widened(kernel, channels), adapt_input_conv(channels, kernel.clone()))


def test_kernels_in_time_are_adapted_frame_by_frame():
    kernel = torch.randn(8, 3, 2, 5, 5, generator=torch.Generator().manual_seed(0))

    wide = widened(kernel, 4)

    assert all(torch.equal(wide[:, :, one], adapt_input_conv(4, kernel[:, :, one].clone())) for one in (0, 1))


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "fasterrcnn_mobilenet_v3_large_320_fpn", "mc3_18"])
def test_pretrained_weights_are_kept_for_other_channels(make, monkeypatch, name, channels):
    body = {"weights_backbone": None} if "rcnn" in name else {}
    state = torchvision.models.get_model(name, **body).state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **keywords: dict(state))

    backbone = make(name, weights="pretrained", in_channels=channels)

    inside = "backbone.body." if "rcnn" in name else ""
    conv = {"mobilenet_v3_small": "features.0.0", "mc3_18": "stem.0"}.get(name, "0.0") + ".weight"
    own = backbone.native.state_dict()
    assert torch.equal(own[conv], widened(state[inside + conv], channels))
    assert all(torch.equal(tensor, state[inside + key]) for key, tensor in own.items() if key != conv)
    assert backbone.spec.inputs[0].channels == backbone.spec.preprocessing.channels == channels
    assert len(backbone.spec.preprocessing.mean) == len(backbone.spec.preprocessing.std) == channels


def test_a_local_file_for_colour_is_adapted_the_same_way_and_one_that_fits_is_not(make, tmp_path):
    state = torchvision.models.resnet18().state_dict()
    save_file(state, tmp_path / "colour.safetensors")
    save_file(state | {"conv1.weight": torch.full((64, 1, 7, 7), 0.5)}, tmp_path / "grey.safetensors")

    adapted = make("resnet18", weights=tmp_path / "colour.safetensors", in_channels=1)
    own = make("resnet18", weights=tmp_path / "grey.safetensors", in_channels=1)

    assert torch.equal(adapted.native.conv1.weight, state["conv1.weight"].sum(dim=1, keepdim=True))
    assert bool((own.native.conv1.weight == 0.5).all())
    with pytest.raises(WeightsError, match=r"conv1.weight must be .*\(64, 3, 7, 7\)"):
        make("resnet18", weights=tmp_path / "grey.safetensors")


def test_random_weights_for_other_channels_are_those_of_a_plain_convolution(provider):
    spec = provider.spec(Reference("torchvision", "resnet18", options={"in_channels": 4}))

    torch.manual_seed(0)
    backbone = provider.build(spec, weights=None)
    torch.manual_seed(0)
    torchvision.models.resnet18(num_classes=1)
    plain = nn.Conv2d(4, 64, 7, 2, 3, bias=False)

    assert torch.equal(backbone.native.conv1.weight, plain.weight)


# --- picture sizes


@pytest.mark.slow
def test_position_embeddings_in_a_local_file_are_resampled_too(make, tmp_path):
    state = torchvision.models.vit_b_32().state_dict()
    save_file(state, tmp_path / "model.safetensors")

    backbone = make("vit_b_32", weights=tmp_path / "model.safetensors", img_size=96)

    expected = torchvision.models.vision_transformer.interpolate_embeddings(96, 32, dict(state))
    assert torch.equal(backbone.native.encoder.pos_embedding, expected["encoder.pos_embedding"])
    assert backbone(torch.rand(1, 3, 96, 96)).pooled.shape == (1, 768)


@pytest.mark.slow
def test_maxvit_takes_its_weights_at_a_multiple_of_its_size(provider, monkeypatch):
    state = torchvision.models.maxvit_t().state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **keywords: dict(state))
    spec = provider.spec(Reference("torchvision", "maxvit_t.IMAGENET1K_V1", options={"img_size": 448}))

    backbone = provider.build(spec, weights="pretrained").eval()

    own = backbone.native.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in own.items())
    with torch.no_grad():
        assert backbone(torch.rand(1, 3, 448, 448)).pooled.shape == (1, 512)


@pytest.mark.parametrize("name", ["resnet18", "swin_t", "r3d_18", "ssd300_vgg16"])
def test_a_network_for_any_size_takes_the_asked_one_as_its_native_size(provider, name):
    spec = provider.spec(Reference("torchvision", name, options={"img_size": 160}))

    assert spec.inputs[0].size == spec.preprocessing.size == (160, 160)
    assert not spec.inputs[0].fixed_size
    assert "dynamic_size" in spec.capabilities


# --- stochastic depth


def depths(module: nn.Module) -> list[float]:
    return [one.p for one in module.modules() if isinstance(one, StochasticDepth)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("convnext_tiny", 0.1),
        ("swin_t", 0.2),
        *(pytest.param(one, 0.2, marks=pytest.mark.slow) for one in ("efficientnet_b0", "maxvit_t", "swin_v2_t")),
        pytest.param("mvit_v2_s", 0.2, marks=pytest.mark.slow),
        pytest.param("swin3d_t", 0.1, marks=pytest.mark.slow),
    ],
)
def test_drop_path_and_the_library_s_own_name_set_one_rate_that_grows_to_the_last_block(provider, name, default):
    def built(**options) -> list[float]:
        spec = provider.spec(Reference("torchvision", name, options=options))
        with torch.device("meta"):
            return depths(provider.build(spec, weights=None).native)

    native = depths(torchvision.models.get_model(name))

    assert built() == native
    assert built(drop_path=default) == pytest.approx(native)
    assert (
        built(drop_path=0.4) == built(stochastic_depth_prob=0.4) == pytest.approx([p * 0.4 / default for p in native])
    )
    assert max(built(drop_path=0.4)) == pytest.approx(0.4, rel=0.1)
    assert set(built(drop_path=0.0)) == {0.0}


# --- buffers


@pytest.mark.thin(6)
@pytest.mark.parametrize(
    "name",
    [
        *("densenet121", "mnasnet0_5", "shufflenet_v2_x0_5", "resnet18", "regnet_x_400mf", "mc3_18"),
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("swin_t", "swin_v2_t", "swin3d_t", "maxvit_t")),
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("efficientnet_b0", "inception_v3", "vgg11_bn")),
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("mvit_v1_b", "vit_b_32", "convnext_tiny", "googlenet")),
    ],
)
@pytest.mark.parametrize("from_file", [False, True], ids=["random", "pretrained"])
def test_every_buffer_is_that_of_a_natively_built_model(make, monkeypatch, name, from_file):
    """Also where the initialisers were skipped since the weights come from a file."""
    keywords = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model(name, **keywords)
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **keywords: dict(model.state_dict()))

    backbone = make(name, weights="pretrained" if from_file else None)

    expected = dict(model.named_buffers())
    buffers = dict(backbone.native.named_buffers())
    assert buffers.keys() == {key for key in expected if not key.startswith(("aux", "Aux"))}
    assert all(torch.equal(tensor, expected[key]) for key, tensor in buffers.items())
