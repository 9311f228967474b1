"""The timm provider gives, bit for bit, what timm's own model computes with the same weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zoo.catalog import resolve
from zoo.contracts.features import Features, Want
from zoo.reference import Reference
from zoo.spec import BackboneSpec
from zoo.strict import from_json, to_json
from zoo.testing import check_backbone
from zoo.testing.backbones import example_inputs
from zoo_timm.backbone import TimmBackbone
from zoo_timm.provider import TimmProvider

# One of each family, with options that make it small enough for a test; ours, and what they are to timm.
CASES = {
    "resnet18": {},
    "mobilenetv3_small_050": {},
    "mobilenetv4_conv_small_050": {},
    "efficientnet_lite0": {},
    "regnety_002": {},
    "densenet121": {},
    "vgg11": {},
    "convnext_atto": {},
    "vit_tiny_patch16_224": {"img_size": 96},
    "deit_tiny_distilled_patch16_224": {"img_size": 96},
    "test_vit2": {},
    "swin_tiny_patch4_window7_224": {"img_size": 112},
    "levit_128s": {},
    "mixer_s32_224": {},
    "mobilevit_xxs": {},
    "crossvit_9_240": {},
    "repvgg_a0": {},
    "ghostnet_050": {},
    "poolformer_s12": {},
}
SLOW = {"convnext_atto", "crossvit_9_240", "densenet121", "mixer_s32_224", "poolformer_s12", "repvgg_a0", "vgg11"}
SLOW |= {"swin_tiny_patch4_window7_224"}


def cases(*without: str) -> list[object]:
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES if name not in without]


VITS = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "test_vit2", "mixer_s32_224")


@dataclass
class Pair:
    """timm's own model with its classifier, our backbone with the same weights, and a batch."""

    library: nn.Module
    ours: TimmBackbone
    image: Tensor

    @property
    def spec(self) -> BackboneSpec:
        return self.ours.spec

    @cached_property
    def pooled(self) -> Tensor:
        return self.ours(self.image).pooled

    @cached_property
    def features(self) -> Features:
        return self.ours(self.image, Want(maps=tuple(stage.name for stage in self.spec.maps)))

    @cached_property
    def sequence(self) -> Tensor:
        return self.library.forward_features(self.image)

    def has(self, key: str) -> bool:
        """Whether a key of timm's is outside its classifier, as timm itself empties it."""
        return not key.startswith(HEADS.get(type(self.library).__name__, tuple(self.classifiers())))

    def classifiers(self) -> list[str]:
        found = self.library.default_cfg["classifier"]
        return [path + "." for path in ([found] if isinstance(found, str) else found)]


# LeViT's classifiers are a BatchNorm and a linear layer; timm removes both.
HEADS = {"LevitDistilled": ("head.", "head_dist.")}


@lru_cache(maxsize=1)
def pair_of(name: str) -> Pair:
    torch.manual_seed(0)
    library = timm.create_model(name, num_classes=5, **CASES[name]).eval()
    for module in library.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    provider = TimmProvider()
    reference = resolve(Reference("timm", name, options=CASES[name])).reference
    ours = provider.build(provider.spec(reference), weights=None).eval()
    state = library.state_dict()
    ours.native.load_state_dict({key: state[key] for key in ours.native.state_dict()}, strict=True)
    return Pair(library, ours, example_inputs(ours.spec, batch=1)["image"])


@pytest.fixture(scope="module", params=cases())
def pair(request):
    return pair_of(request.param)


@pytest.fixture(autouse=True)
def no_grad(request):
    with torch.set_grad_enabled("gradient" in request.node.name or "conforms" in request.node.name):
        yield


def test_the_sample_has_the_families_that_people_use():
    assert len({timm.models._registry._model_to_module[name] for name in CASES}) >= 14


@pytest.mark.thin(6)
@pytest.mark.slow
def test_the_keys_are_those_of_timm_without_the_classifier(pair):
    expected = [key for key in pair.library.state_dict() if pair.has(key)]

    assert list(pair.ours.native.state_dict()) == expected


def test_the_pooled_vector_is_what_timm_gives_before_its_classifier(pair):
    assert torch.equal(pair.pooled, pair.library.forward_head(pair.sequence, pre_logits=True))


def logits_of(library: nn.Module, pooled: Tensor) -> Tensor:
    """Put timm's own last layer on our vector, for each of the ways in which timm's models end."""
    if isinstance(library.head if hasattr(library, "head") else None, nn.ModuleList):
        widths = [head.in_features for head in library.head]  # CrossViT: each branch classifies its share
        parts = zip(pooled.split(widths, dim=1), library.head, strict=True)
        return torch.stack([head(part) for part, head in parts], dim=0).mean(dim=0)
    if hasattr(library, "head_dist"):  # distilled: two classifiers, averaged
        return (library.head(pooled) + library.head_dist(pooled)) / 2
    return library.get_classifier()(pooled)


# Distilled ViTs give the mean of two tokens as their vector, but classify each token by itself.
UNEQUAL = ("deit_tiny_distilled_patch16_224",)


@pytest.mark.parametrize("pair", cases(*UNEQUAL), indirect=True)
def test_the_logits_of_timm_follow_from_our_features(pair):
    assert torch.equal(logits_of(pair.library, pair.pooled), pair.library(pair.image))


def test_the_maps_are_those_of_timm(pair):
    found = pair.features
    taps = {tap["stage"]: tap["index"] for tap in pair.spec.construction["taps"] if tap["index"] is not None}
    expected = pair.library.forward_intermediates(pair.image, output_fmt="NCHW", intermediates_only=True)

    assert set(found.maps) == set(taps)
    for stage, index in taps.items():
        assert torch.equal(found.maps[stage], expected[index]), stage


def test_one_pass_gives_the_same_pooled_vector_with_maps_and_without(pair):
    assert torch.equal(pair.features.pooled, pair.pooled)


def test_what_the_spec_says_on_the_meta_device_is_what_real_tensors_have(pair):
    spec, found = pair.spec, pair.features

    assert found.pooled.shape == (1, spec.pooled_dim)
    assert spec.parameters == sum(p.numel() for p in pair.ours.native.parameters())
    assert spec.parameters == sum(p.numel() for name, p in pair.library.named_parameters() if pair.has(name))
    for stage in spec.maps:
        assert found.maps[stage.name].ndim == 4
        assert found.maps[stage.name].shape[1] == stage.channels
        for side, cells in zip(pair.image.shape[-2:], found.maps[stage.name].shape[-2:], strict=True):
            assert abs(side / stage.reduction - cells) <= 1
    assert from_json(BackboneSpec, json.loads(json.dumps(to_json(spec)))) == spec


@pytest.mark.parametrize("pair", cases(*(set(CASES) - set(VITS))), indirect=True)
def test_tokens_prefix_and_grid_are_parts_of_the_last_sequence(pair):
    found = pair.ours(pair.image, Want(tokens=True))
    sequence, prefix = pair.sequence, pair.spec.prefix_tokens

    assert prefix == getattr(pair.library, "num_prefix_tokens", 0)
    assert torch.equal(found.tokens, sequence[:, prefix:])
    assert (found.prefix is None) if prefix == 0 else torch.equal(found.prefix, sequence[:, :prefix])
    assert found.grid == tuple(side // pair.spec.maps[-1].reduction for side in pair.image.shape[-2:])
    assert found.tokens.shape == (1, found.grid[0] * found.grid[1], pair.spec.token_dim)


NO_GROUPS = ("poolformer_s12",)  # timm gives MetaFormers no group_matcher


@pytest.mark.parametrize("pair", cases(*NO_GROUPS), indirect=True)
def test_the_order_of_the_stages_is_that_of_timms_groups(pair):
    native, names = pair.ours.native, [stage.name for stage in pair.spec.stages]
    matcher = timm.models.group_parameters(native, native.group_matcher(coarse=True))
    spans = {name: [] for name in names}
    for group, parameters in matcher.items():
        for parameter in parameters:
            spans[pair.ours.stage_of(parameter)].append(group)
    used = [(name, min(groups), max(groups)) for name, groups in spans.items() if groups]

    for (earlier, _, last), (later, first, _) in pairwise(used):
        assert last <= first, f"{earlier} ends in group {last}, {later} begins in {first}"


def test_later_stages_are_never_run_before_earlier_ones(pair):
    names = [stage.name for stage in pair.spec.stages]
    order: list[int] = []
    handles = [
        module.register_forward_pre_hook(
            lambda module, inputs, path=path: order.append(names.index(pair.ours.stage_of(path)))
        )
        for path, module in pair.ours.native.named_modules()
        if path and not list(module.children())
    ]
    try:
        pair.ours(pair.image)
    finally:
        for handle in handles:
            handle.remove()

    assert order == sorted(order)


@pytest.mark.slow
@pytest.mark.parametrize(
    "reference",
    [
        "test_resnet",
        "test_vit2",
        "test_efficientnet",
        "mobilenetv3_small_050",
        "test_nfnet",
        "test_convnext?in_channels=4",
    ],
)
def test_it_conforms_to_the_contract(reference):
    check_backbone(f"timm:{reference}")


def make(text: str, **build) -> TimmBackbone:
    provider = TimmProvider()
    return provider.build(provider.spec(resolve(f"timm:{text}").reference), weights=None, **build).eval()


@pytest.mark.slow
def test_a_saved_folder_is_one_that_timm_loads(tmp_path):
    ours = make("test_vit?img_size=96&in_channels=1")
    (tmp_path / "config.json").write_text(json.dumps(ours.native_files()["config.json"]))
    save_file(ours.native.state_dict(), tmp_path / "model.safetensors")
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    image = torch.randn(2, 1, 96, 96)

    assert torch.equal(theirs(image), ours(image).pooled)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["levit_128s", "test_vit", "test_convnext"])
def test_a_file_with_the_classifier_in_it_is_poured_in_without_it(tmp_path, name):
    library = timm.create_model(name, num_classes=5).eval()
    save_file(library.state_dict(), tmp_path / "w.safetensors")
    provider = TimmProvider()
    ours = provider.build(provider.spec(Reference("timm", name)), weights=tmp_path / "w.safetensors").eval()
    image = example_inputs(ours.spec)["image"]

    assert torch.equal(ours(image).pooled, library.forward_head(library.forward_features(image), pre_logits=True))


@pytest.mark.slow
@torch.no_grad()
def test_an_encoder_that_gives_rows_and_columns_before_channels_is_pooled_over_them():
    provider = TimmProvider()
    spec = provider.spec(Reference.parse("timm:qwen3_vit_88m_enc"))
    backbone = provider.build(spec, weights=None).eval()
    library = timm.create_model("qwen3_vit_88m_enc", global_pool="avg", num_classes=0).eval()
    library.load_state_dict(backbone.native.state_dict(), strict=False)
    if getattr(library, "merger", None) is not None:
        library.merger = None  # timm's own pass then pools
    image = torch.randn(2, 3, 64, 96)

    pooled = backbone(image).pooled

    assert spec.pooled_dim == 768
    assert pooled.shape == (2, 768)
    assert torch.equal(pooled, library(image))
