"""Video models: clips of ``(B, C, T, H, W)``, and the vector that the library's own classifier receives."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from zoo.contracts.features import Want
from zoo.errors import CapabilityError, ShapeError
from zoo.reference import Reference

# Architecture: what receives the pooled vector in the library, and a small clip that it takes: frames and side.
CASES = {
    "mc3_18": ("fc", 4, 32),
    "mvit_v1_b": ("head.1", 16, 224),
    "mvit_v2_s": ("head.1", 16, 224),
    "r2plus1d_18": ("fc", 4, 32),
    "r3d_18": ("fc", 4, 32),
    "s3d": ("classifier", 14, 224),
    "swin3d_b": ("head", 5, 40),
    "swin3d_s": ("head", 5, 40),
    "swin3d_t": ("head", 5, 40),
}
QUICK = {"mc3_18", "s3d", "swin3d_t"}
EACH = [pytest.param(name, id=name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in CASES]


def library(name: str) -> nn.Module:
    torch.manual_seed(0)
    built = torchvision.models.get_model(name, weights=None)
    for module in built.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return built.eval()


def clip(name: str, channels: int = 3) -> torch.Tensor:
    _, frames, side = CASES[name]
    return torch.rand(1, channels, frames, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.thin(6)
@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", EACH)
def test_the_pooled_vector_is_what_the_library_s_classifier_receives(provider, name):
    model = library(name)
    backbone = provider.build(provider.spec(Reference("torchvision", name)), weights=None).eval()
    last = CASES[name][0]
    fresh = backbone.native.state_dict()
    gone = {key for key in model.state_dict() if key not in fresh}
    buffers = dict(model.named_buffers())
    computed = [key for key, _ in backbone.native.named_buffers() if not key.split(".")[-1].startswith(("run", "num"))]
    assert all(torch.equal(fresh[key], buffers[key]) for key in computed if key in fresh)
    backbone.native.load_state_dict({key: model.state_dict()[key] for key in fresh}, strict=True)
    received, normed = [], []
    model.get_submodule(last).register_forward_pre_hook(lambda module, inputs: received.append(inputs[0].clone()))
    if name.startswith("mvit"):
        model.norm.register_forward_hook(lambda module, inputs, output: normed.append(output.clone()))

    model(clip(name))
    features = backbone(clip(name), Want(tokens=bool(normed)))

    expected = received[0].mean(dim=(2, 3, 4)) if received[0].ndim == 5 else received[0]
    assert torch.equal(features.pooled, expected)
    assert features.pooled.shape == (1, backbone.spec.pooled_dim)
    assert all(key.startswith(last) for key in gone)
    if normed:
        assert torch.equal(features.prefix, normed[0][:, :1])
        assert torch.equal(features.tokens, normed[0][:, 1:])
        assert features.tokens.shape == (1, 8 * 7 * 7, backbone.spec.token_dim)
        assert features.grid is None


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_spec_says_how_clips_must_be(provider, name):
    spec = provider.spec(Reference("torchvision", name))
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()

    entry = spec.inputs[0]
    assert (spec.modality, entry.name, entry.kind, entry.rank, entry.channels) == ("video", "video", "video", 5, 3)
    assert entry.size == tuple(preset.crop_size)
    assert entry.fixed_length == entry.fixed_size == name.startswith("mvit")
    assert spec.maps == ()
    assert [stage.name for stage in spec.stages] == ["stem", "s1", "s2", "s3", "s4", "post"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_tensor_has_a_stage_and_the_stages_come_in_order(provider, name):
    with torch.device("meta"):
        backbone = provider.build(provider.spec(Reference("torchvision", name)), weights=None)
    order = [stage.name for stage in backbone.spec.stages]

    ranks = [order.index(backbone.stage_of(key)) for key in backbone.native.state_dict()]

    assert ranks == sorted(ranks)
    assert set(ranks) >= set(range(5))
    for stage in backbone.spec.stages[1:-1]:
        assert backbone.stage_of(stage.module) == stage.name


def test_frames_become_what_the_library_s_preset_makes_of_them(provider):
    preset = torchvision.models.video.R3D_18_Weights.DEFAULT.transforms()
    frames = torch.randint(0, 256, (4, 3, 120, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    spec = provider.spec(Reference("torchvision", "r3d_18"))

    assert torch.equal(spec.preprocessing.apply(frames), preset(frames))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("r3d_18", (1, 3, 32, 32), "rank 4"),
        ("r3d_18", (1, 1, 4, 32, 32), "in_channels=1"),
        ("mvit_v2_s", (1, 3, 8, 224, 224), "16 frames only, got 8"),
        ("mvit_v2_s", (1, 3, 16, 112, 112), "224×224 pixels only"),
        ("s3d", (1, 3, 13, 224, 224), "clips of 14 frames or more, got 13"),
        ("s3d", (1, 3, 14, 112, 112), "224×224 pixels or more"),
    ],
)
def test_a_clip_that_does_not_fit_is_refused_with_what_would(provider, name, shape, message):
    with torch.device("meta"):
        backbone = provider.build(provider.spec(Reference("torchvision", name)), weights=None)
        clip = torch.zeros(shape)

    with pytest.raises(ShapeError, match=message):
        backbone(clip)


def test_a_video_model_gives_no_maps(make):
    with pytest.raises(CapabilityError, match="its maps are none"):
        make("mc3_18")(clip("mc3_18"), Want(maps=("s2",)))


@pytest.mark.parametrize(
    "name", ["mc3_18", *(pytest.param(one, marks=pytest.mark.slow) for one in ("swin3d_t", "s3d"))]
)
def test_other_channels_widen_the_first_convolution(provider, name):
    spec = provider.spec(Reference("torchvision", name, options={"in_channels": 2}))
    backbone = provider.build(spec, weights=None).eval()

    with torch.no_grad():
        pooled = backbone(clip(name, channels=2)).pooled

    assert pooled.shape == (1, spec.pooled_dim)
    assert spec.preprocessing.channels == 2


@pytest.mark.slow
def test_dropout_before_the_classifier_leaves_the_tokens_as_they_are(provider):
    """The library drops in place, on a view of the very tokens that are given."""
    backbone = provider.build(provider.spec(Reference("torchvision", "mvit_v2_s")), weights=None)
    backbone.eval().native.head.train()

    with torch.no_grad():
        features = backbone(clip("mvit_v2_s"), Want(tokens=True))

    assert (features.pooled == 0).any()
    assert not (features.prefix == 0).any()
