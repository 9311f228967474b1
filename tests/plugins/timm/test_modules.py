"""One architecture of every module of timm, its smallest: equal to timm's own, staged as it runs, cut without harm."""

from __future__ import annotations

import json
from contextlib import nullcontext
from functools import cached_property, lru_cache
from importlib import resources
from itertools import pairwise
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from zoo.contracts.features import Features, Want
from zoo.contracts.initialising import skip_initialisers
from zoo.reference import Reference
from zoo.spec import BackboneSpec
from zoo_timm.backbone import TimmBackbone
from zoo_timm.provider import TimmProvider

pytestmark = pytest.mark.thin(6)

# Module of timm -> its smallest architecture, at the smallest picture that it takes and 64 pixels.
MODULES: dict[str, str] = json.loads((Path(__file__).parent / "modules.json").read_text())
QUICK = (
    "byobnet",
    "convnext",
    "efficientnet",
    "efficientvim",
    "ghostnet",
    "levit",
    "mambaout",
    "maxxvit",
    "mobilenetv3",
    "nfnet",
    "pit",
    "resnet",
    "vision_transformer",
)

# Without a pooling of their own; the mean over what comes last is theirs in zoo.
MEAN = {"DeepseekVitEncoder", "Gemma4VitEncoder", "MobileNetV5Encoder", "Qwen3VitEncoder"}

# Where timm's own groups are not in the order in which they run: class-attention layers share the numbers of the last
# blocks, and the norms of hidden states are put after all stages.
NO_GROUPS = {"CSATv2", "MetaFormer", "MobileNetV5Encoder", "PoolingVisionTransformer", "RDNet"}
UNORDERED_GROUPS = {"Cait", "EfficientViM"}
READ_BACK = {"Gemma4VitClassifier"}
"""Encoders that read the grid back from values, which the meta device has not."""


def everything(spec: BackboneSpec) -> Want:
    return Want(tokens="tokens" in spec.capabilities, maps=tuple(stage.name for stage in spec.maps))


class Case:
    """One architecture: its spec, timm's own model, our backbone with the same weights, a picture."""

    def __init__(self, module: str) -> None:
        self.reference = Reference.parse(f"timm:{MODULES[module]}")
        self.spec: BackboneSpec = TimmProvider().spec(self.reference)
        self.names = [stage.name for stage in self.spec.stages]

    def library(self) -> nn.Module:
        """Build timm's own model."""
        arguments = dict(self.spec.construction["arguments"])
        return timm.create_model(self.reference.name, num_classes=0, **arguments).eval()

    @cached_property
    def native(self) -> nn.Module:
        torch.manual_seed(0)
        library = self.library()
        self.built_by_timm = {name: buffer.clone() for name, buffer in library.named_buffers()}
        for module in library.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        return library

    @cached_property
    def ours(self) -> TimmBackbone:
        with skip_initialisers():  # its parameters come from timm's own
            ours = TimmProvider().build(self.spec, weights=None).eval()
        self.built = {name: buffer.clone() for name, buffer in ours.native.named_buffers()}
        ours.native.load_state_dict(self.native.state_dict(), strict=True)
        return ours

    def cut(self, want: Want, device: str) -> TimmBackbone:
        with torch.device(device), skip_initialisers() if device == "cpu" else nullcontext():
            backbone = TimmProvider().build(self.spec, weights=None).eval()
        backbone.trim(want)
        return backbone

    def picture(self, batch: int = 1, device: str = "cpu") -> Tensor:
        entry = self.spec.inputs[0]
        shape = (batch, entry.channels, *entry.size)
        if device == "meta":
            return torch.zeros(shape, device="meta")
        return torch.randn(shape, generator=torch.Generator().manual_seed(0))

    @cached_property
    def image(self) -> Tensor:
        return self.picture()

    @cached_property
    def sequence(self) -> Tensor:
        return self.native.forward_features(self.image)

    @cached_property
    def features(self) -> Features:
        return self.ours(self.image, everything(self.spec))


@lru_cache(maxsize=1)
def case_of(module: str) -> Case:
    return Case(module)


@pytest.fixture(
    scope="module", params=[m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in sorted(MODULES)]
)
def case(request):
    return case_of(request.param)


@pytest.fixture(autouse=True)
def no_grad(request):
    with torch.set_grad_enabled("gradient" in request.node.name):
        yield


def test_the_list_has_the_smallest_architecture_of_every_module_of_timm():
    catalog = json.loads(resources.files("zoo_timm").joinpath("catalog.json").read_text())
    sizes = {entry["name"]: (entry.get("parameters") or float("inf"), entry["name"]) for entry in catalog["entries"]}
    smallest: dict[str, tuple[float, str]] = {}
    for name in timm.list_models():
        module = timm.models._registry._model_to_module[name]
        smallest[module] = min(sizes[name], smallest.get(module, sizes[name]))

    assert {module: text.partition("?")[0] for module, text in MODULES.items()} == {
        module: name for module, (_, name) in smallest.items()
    }
    assert len(MODULES) == 98


def test_the_keys_are_timms_own(case):
    assert list(case.ours.native.state_dict()) == list(case.native.state_dict())


def test_every_buffer_is_that_of_a_model_that_timm_built_itself(case):
    _ = case.ours

    assert list(case.built) == list(case.built_by_timm)
    for name, buffer in case.built_by_timm.items():
        assert torch.equal(case.built[name], buffer), name


def test_the_pooled_vector_is_timms_own(case):
    if type(case.native).__name__ in MEAN:
        expected = case.sequence.flatten(2).mean(2) if case.sequence.ndim == 4 else case.sequence.mean(1)
        assert case.spec.pooling == "mean"
    else:
        expected = case.native.forward_head(case.sequence, pre_logits=True)

    assert torch.equal(case.ours(case.image).pooled, expected)
    assert torch.equal(case.features.pooled, expected)
    assert expected.shape == (1, case.spec.pooled_dim)


def test_the_maps_are_timms_own_with_the_declared_channels_and_reductions(case):
    taps = {tap["stage"]: tap["index"] for tap in case.spec.construction["taps"] if tap["index"] is not None}
    expected = case.native.forward_intermediates(case.image, output_fmt="NCHW", intermediates_only=True)

    assert list(case.features.maps) == list(taps) == [stage.name for stage in case.spec.maps]
    for stage in case.spec.maps:
        found = case.features.maps[stage.name]
        assert torch.equal(found, expected[taps[stage.name]]), stage
        assert torch.equal(found, case.ours(case.image, Want(pooled=False, maps=(stage.name,))).maps[stage.name])
        assert found.shape[1] == stage.channels
        for side, cells in zip(case.image.shape[-2:], found.shape[-2:], strict=True):
            assert abs(side / stage.reduction - cells) <= 1


def test_the_tokens_are_parts_of_what_comes_last(case):
    if "tokens" not in case.spec.capabilities:
        assert case.features.tokens is None
        return
    prefix, found = case.spec.prefix_tokens, case.features

    assert torch.equal(found.tokens, case.sequence[:, prefix:])
    assert (found.prefix is None) if prefix == 0 else torch.equal(found.prefix, case.sequence[:, :prefix])
    assert found.tokens.shape == (1, found.grid[0] * found.grid[1], case.spec.token_dim)


def test_layers_run_in_the_order_of_their_stages(case):
    first: dict[str, int] = {}
    handles = [
        module.register_forward_pre_hook(
            lambda _, __, path=path: first.update({path: case.names.index(case.ours.stage_of(path)), **first})
        )
        for path, module in case.ours.native.named_modules()
        if path and not list(module.children())
    ]
    try:
        case.ours(case.image)
    finally:
        for handle in handles:
            handle.remove()

    for (before, earlier), (after, later) in pairwise(first.items()):
        assert earlier <= later, f"{before} is of {case.names[earlier]} and runs before {after} of {case.names[later]}"


def test_the_stages_are_in_the_order_of_timms_groups(case):
    native = case.ours.native
    if type(native).__name__ in NO_GROUPS:
        with pytest.raises((AssertionError, AttributeError)):
            native.group_matcher(coarse=True)
        return
    groups = timm.models.group_parameters(native, native.group_matcher(coarse=True))
    spans: dict[int, list[int]] = {}
    for group, parameters in groups.items():
        for parameter in parameters:
            spans.setdefault(case.names.index(case.ours.stage_of(parameter)), []).append(group)

    ordered = all(max(spans[a]) <= min(spans[b]) for a, b in pairwise(sorted(spans)))
    assert ordered == (type(native).__name__ not in UNORDERED_GROUPS)


def test_a_map_reads_no_parameter_of_a_later_stage_by_its_gradient(case):
    device = "cpu" if type(case.native).__name__ in READ_BACK else "meta"
    backbone = case.cut(everything(case.spec), device)
    maps = backbone(case.picture(device=device), Want(pooled=False, maps=tuple(s.name for s in case.spec.maps))).maps
    parameters = dict(backbone.native.named_parameters())
    for stage, found in maps.items():
        gradients = torch.autograd.grad(found.sum(), list(parameters.values()), allow_unused=True, retain_graph=True)
        late = [
            name
            for name, gradient in zip(parameters, gradients, strict=True)
            if gradient is not None and case.names.index(backbone.stage_of(name)) > case.names.index(stage)
        ]

        assert not late, f"{stage} reads {late[:3]}"


def wants_of(spec: BackboneSpec) -> list[Want]:
    maps = [stage.name for stage in spec.maps]
    ends = dict.fromkeys([maps[0], maps[len(maps) // 2], maps[-1]])
    tokens = [Want(pooled=False, tokens=True)] if "tokens" in spec.capabilities else []
    return [Want(), *tokens, *(Want(pooled=False, maps=(name,)) for name in ends)]


@pytest.mark.slow
def test_what_is_left_after_the_cut_all_gets_a_gradient(case):
    device = "cpu" if type(case.native).__name__ in READ_BACK else "meta"
    keys = list(case.ours.native.state_dict())
    for want in wants_of(case.spec):
        backbone = case.cut(want, device).train()
        found = backbone(case.picture(2, device), want)
        sum(tensor.sum() for tensor in tensors_of(found)).backward()
        left = list(backbone.native.state_dict())

        assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == [], want
        assert [key for key in keys if key in set(left)] == left, want
        assert backbone.set_grad_checkpointing() == ("grad_checkpointing" in case.spec.capabilities), want


def tensors_of(features: Features) -> list[Tensor]:
    prefix = [] if features.prefix is None else [features.prefix]
    tokens = [] if features.tokens is None else [features.tokens, *prefix]
    return [*tokens, *features.maps.values(), *([] if features.pooled is None else [features.pooled])]


def test_what_is_left_after_the_cut_gives_the_same_bits_from_a_smaller_state_dict(case):
    first, last = case.spec.maps[0].name, case.spec.maps[-1].name
    whole = case.native.state_dict()
    for want in (Want(), Want(pooled=False, maps=(first,)), Want(pooled=False, maps=(last,))):
        backbone = case.cut(want, "cpu")
        kept = backbone.native.state_dict()
        backbone.native.load_state_dict({key: whole[key] for key in kept}, strict=True)
        found = backbone(case.image, want)

        for tensor, expected in zip(tensors_of(found), tensors_of(case.ours(case.image, want)), strict=True):
            assert torch.equal(tensor, expected)
        assert (backbone.native_files() == {}) == (len(kept) < len(whole))
    assert len(case.cut(Want(pooled=False, maps=(first,)), "meta").native.state_dict()) < len(whole)
