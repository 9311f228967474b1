"""What the options of a timm backbone change, and the sentence that answers those that cannot be followed."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from zoo.catalog import resolve
from zoo.contracts.features import Want
from zoo.errors import ConfigError, ShapeError, UnknownName, ZooError
from zoo.reference import Reference
from zoo.spec import BackboneSpec
from zoo_timm.backbone import TimmBackbone
from zoo_timm.options import check_obeyed
from zoo_timm.provider import TimmProvider

pytestmark = pytest.mark.slow


def spec_of(text: str) -> BackboneSpec:
    return TimmProvider().spec(resolve(f"timm:{text}").reference)


def make(text: str) -> TimmBackbone:
    return TimmProvider().build(spec_of(text), weights=None).eval()


def rates(backbone: TimmBackbone) -> set[float]:
    return {m.drop_prob for m in backbone.native.modules() if type(m).__name__ == "DropPath"}


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "mobilenetv3_small_050"])
def test_a_backbone_takes_other_numbers_of_channels(name, channels):
    ours = make(f"{name}?in_channels={channels}")
    torch.manual_seed(0)
    library = timm.create_model(name, num_classes=0, in_chans=channels).eval()
    ours.native.load_state_dict(library.state_dict())
    image = torch.randn(2, channels, 160, 160)

    with torch.no_grad():
        assert torch.equal(ours(image).pooled, library(image))
    assert ours.spec.inputs[0].channels == channels
    assert len(ours.spec.preprocessing.mean) == channels


def test_a_network_built_for_a_size_is_built_for_another():
    ours = make("test_vit?img_size=96")

    found = ours(torch.zeros(1, 3, 96, 96), Want(tokens=True))
    assert ours.spec.inputs[0].size == (96, 96)
    assert ours.spec.preprocessing.size == (96, 96)
    assert found.grid == (6, 6)


def test_a_network_of_any_size_gets_its_pictures_at_the_size_that_is_asked_for():
    usual, other = spec_of("test_resnet"), spec_of("test_resnet?img_size=96")

    assert usual.inputs[0].size == (160, 160)
    assert other.inputs[0].size == other.preprocessing.size == (96, 96)
    assert other.construction["arguments"] == {}
    assert make("test_resnet?img_size=96")(torch.zeros(1, 3, 70, 50)).pooled.shape == (1, 96)


def test_a_vit_of_dynamic_size_takes_any_grid_of_whole_patches():
    ours = make("test_vit?dynamic_img_size=true")

    assert ours(torch.zeros(1, 3, 96, 64), Want(tokens=True)).grid == (6, 4)
    assert "dynamic_size" in ours.spec.capabilities
    with pytest.raises(ShapeError, match="divisible by 16, got 96×65; pad to 96×80"):
        ours(torch.zeros(1, 3, 96, 65))


# Of any size, by themselves or when asked; where whole patches or blocks are needed, of which size.
DIVISORS = {
    "test_resnet": 1,
    "dla46x_c": 32,
    "hrnet_w18_small": 32,
    "tresnet_m": 4,
    "csatv2": 8,
    "halonet_h1": 256,
    "bat_resnext26ts": 256,
    "sam2_hiera_tiny": 32,
    "naflexvit_base_patch16_gap": 16,
    "qwen3_vit_88m": 16,
    "qwen3_vit_88m_merge": 32,
    "deepseek_vit_412m": 14,
    "vit_base_patch16_sapiens2": 16,
    "deit_tiny_distilled_patch16_224?dynamic_img_size=true": 16,
    "swin_tiny_patch4_window7_224?dynamic_img_size=true": 4,
    "swinv2_tiny_window8_256?dynamic_img_size=true": 4,
    "swinv2_cr_tiny_224?dynamic_img_size=true": 4,
    "vit_tiny_r_s16_p8_224?dynamic_img_size=true": 32,
}


LARGE = ("halonet", "bat_", "sam2", "naflexvit", "qwen3", "deepseek", "vit_base", "csatv2", "hrnet", "swin")


@pytest.mark.thin(6)
@pytest.mark.parametrize("text", [pytest.param(t, marks=[pytest.mark.slow] * t.startswith(LARGE)) for t in DIVISORS])
def test_what_any_size_must_be_divisible_by_is_said_and_is_enough(text):
    spec = spec_of(text)
    step = DIVISORS[text]
    with torch.device("meta"):
        ours = TimmProvider().build(spec, weights=None).eval()
    side = max(2 * step, -(-96 // step) * step)
    taken = torch.zeros(1, 3, side, side + step, device="meta")

    assert (spec.inputs[0].divisor, spec.inputs[0].fixed_size) == (step, False)
    assert ours(taken).pooled.shape == (1, spec.pooled_dim)
    if step > 1:
        with pytest.raises(ShapeError, match=f"divisible by {step}"):
            ours(torch.zeros(1, 3, side, side + 1, device="meta"))


@pytest.mark.parametrize("name", ["test_convnext", "inception_v3", "vgg11"])
def test_the_least_size_is_the_least_that_the_library_takes(name):
    spec = spec_of(name)
    least = spec.inputs[0].least
    with torch.device("meta"):
        ours = TimmProvider().build(spec, weights=None).eval()

    assert ours(torch.zeros(1, 3, least, least, device="meta")).pooled.shape == (1, spec.pooled_dim)
    with pytest.raises(RuntimeError):
        ours.native(torch.zeros(1, 3, least - 1, least - 1, device="meta"))
    with pytest.raises(ShapeError, match=f"{least}×{least} pixels or more"):
        ours(torch.zeros(1, 3, least - 1, least - 1, device="meta"))


@pytest.mark.parametrize("option", ["drop_path", "drop_path_rate"])
def test_the_drop_path_rate_reaches_the_blocks(option):
    assert max(rates(make(f"test_vit?{option}=0.5"))) == 0.5
    assert not rates(make("test_vit"))


def test_the_output_stride_is_the_reduction_of_the_last_map():
    assert [stage.reduction for stage in spec_of("test_resnet?output_stride=8").maps] == [2, 4, 8]
    assert spec_of("test_resnet").maps[-1].reduction == 32


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("test_resnet?img_sizes=64", UnknownName, "no option 'img_sizes'; it takes img_size"),
        ("test_resnet?pretrained=true", UnknownName, "no option 'pretrained'"),
        ("test_resnet?num_classes=3", UnknownName, "no option 'num_classes'"),
        ("test_vit#vision", UnknownName, "timm models have one part; leave '#vision' out"),
        ("test_vit?img_size=abc", ConfigError, "img_size must be a whole number of pixels, 1 or more, got 'abc'"),
        ("test_vit?img_size=-16", ConfigError, "img_size must be a whole number of pixels"),
        ("test_resnet?img_size=0", ConfigError, "img_size must be a whole number of pixels"),
        ("test_vit?img_size=9", ConfigError, "no pictures of 9×9 pixels; the nearest that it takes are 16×16"),
        ("test_vit?dynamic_img_size=true&img_size=100", ConfigError, "are 96×96 and 112×112"),
        ("tresnet_m?img_size=98", ConfigError, "are 96×96 and 128×128"),
        pytest.param("halonet_h1?img_size=300", ConfigError, "are 256×256 and 512×512", marks=pytest.mark.slow),
        ("test_vit?in_channels=0", ConfigError, "in_channels"),
        ("test_vit?in_channels=-1", ConfigError, "in_channels"),
        ("test_vit?in_channels=two", ConfigError, "in_channels"),
        ("test_vit?in_channels=1.5", ConfigError, "in_channels"),
        ("test_vit?output_stride=8", ConfigError, "knows no output_stride; leave it out"),
        ("test_resnet?output_stride=5", ConfigError, "timm cannot build it with"),
        ("test_resnet?drop_path_rate=2", ConfigError, "drop_path_rate"),
        ("densenet121?drop_path=0.1", ConfigError, "knows no drop_path; leave it out"),
        ("test_vit?drop_path=0.1&drop_path_rate=0.1", ConfigError, "are one option; give one of them"),
        ("test_resnet?global_pool=sideways", ConfigError, "timm cannot build it with"),
    ],
)
def test_a_wrong_option_is_answered_in_one_sentence_of_the_family(text, error, words):
    with pytest.raises(error, match=r"^[^\n]+$") as caught:
        spec_of(text)

    assert isinstance(caught.value, ZooError)
    assert words in str(caught.value)


def test_a_drop_path_that_no_layer_would_obey_is_refused():
    with pytest.raises(ConfigError, match=r"Linear has no path that could be dropped; leave drop_path out"):
        check_obeyed(Reference("timm", "deaf"), nn.Linear(1, 1), {"drop_path_rate": 0.1})


@pytest.mark.parametrize(("name", "can"), [("test_vit", True), ("test_resnet", True), ("legacy_xception", False)])
def test_checkpointing_is_a_capability_and_says_whether_it_is_on(name, can):
    ours = make(name)

    assert ("grad_checkpointing" in ours.spec.capabilities) == can
    assert ours.set_grad_checkpointing() is can
    assert ours.set_grad_checkpointing(False) is False


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("test_vit", Want()),
        ("test_vit", Want(pooled=False, maps=("s2",))),
        ("test_convnext", Want(maps=("s1", "s3"))),
        ("test_mambaout", Want()),
    ],
)
def test_checkpointing_changes_no_gradient_and_keeps_fewer_tensors(name, want):
    ours = make(name).train()
    image = torch.randn(2, 3, 160, 160)
    gradients, kept = [], []
    for enable in (False, True):
        assert ours.set_grad_checkpointing(enable) is enable
        ours.zero_grad()
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t.numel()) or t, lambda t: t):
            found = ours(image, want)
            loss = sum(one.square().sum() for one in (*found.maps.values(), *([found.pooled] if want.pooled else [])))
        loss.backward()
        gradients.append([p.grad for p in ours.parameters() if p.grad is not None])
        kept.append(sum(saved))

    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain)
    assert kept[1] < kept[0]
