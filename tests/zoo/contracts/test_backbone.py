"""Stages: total and ordered; and what is refused before a library sees it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from zoo.contracts.backbone import Backbone, StageMap, check_inputs, check_want
from zoo.contracts.features import Features, Want
from zoo.contracts.head import Needs
from zoo.errors import CapabilityError, ShapeError, UnknownName
from zoo.spec import BackboneSpec, InputSpec, StageSpec


def block() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))


class Net(nn.Module):
    """A token and a bias of its own, a stem, three blocks, a neck, a norm."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(2))
        self.register_buffer("scale", torch.ones(1))
        self.stem = block()
        self.a, self.b = block(), nn.ModuleList([block(), block()])
        self.between = nn.Conv2d(2, 2, 1)
        self.c = block()
        self.norm = nn.BatchNorm2d(2)


def paths(module: nn.Module) -> list[str]:
    named = (module.named_modules(), module.named_parameters(), module.named_buffers())
    return [name for each in named for name, _ in each if name]


def test_every_module_parameter_and_buffer_has_a_stage_in_the_order_of_definition():
    net = Net()
    stages = StageMap(net, {"s1": "a", "s2": "b", "s3": "c"})

    assert stages.names == ("stem", "s1", "s2", "s3", "post")
    assert {stages[path] for path in paths(net)} == set(stages.names)
    found = {path: stages[path] for path in ("token", "scale", "stem.0.weight", "a", "a.1.running_mean", "b.1.0.bias")}
    assert found == {
        "token": "stem",
        "scale": "stem",
        "stem.0.weight": "stem",
        "a": "s1",
        "a.1.running_mean": "s1",
        "b.1.0.bias": "s2",
    }
    assert (stages["between.weight"], stages["c.0"], stages["norm.num_batches_tracked"]) == ("s3", "s3", "post")


@pytest.mark.slow
@given(st.lists(st.integers(1, 3), min_size=1, max_size=6), st.data())
def test_any_cut_of_any_network_is_total_and_monotone(depths, data):
    net = nn.Sequential(*(nn.Sequential(*(nn.Linear(1, 1) for _ in range(depth))) for depth in depths))
    ends = sorted(data.draw(st.sets(st.sampled_from(range(len(depths))), min_size=1)))
    stages = StageMap(net, {f"s{i + 1}": str(end) for i, end in enumerate(ends)})

    order = [stages.names.index(stages[name]) for name, _ in net.named_parameters()]
    assert order == sorted(order)
    for i, end in enumerate(ends):
        assert stages[f"{end}.0.weight"] == f"s{i + 1}"


def test_a_stage_that_ends_inside_a_module_splits_it():
    stages = StageMap(Net(), {"s1": "b.0", "s2": "c"}, begins="a")

    assert (stages["a.0"], stages["b.0.0.weight"], stages["b.1.0.weight"]) == ("s1", "s1", "s2")


def test_where_the_first_stage_begins_may_be_said():
    assert StageMap(Net(), {"s1": "b"})["a.0"] == "stem"
    assert StageMap(Net(), {"s1": "b"}, begins="a")["a.0"] == "s1"


def test_what_is_defined_out_of_order_may_be_moved():
    stages = StageMap(Net(), {"s1": "a", "s2": "c"}, moved={"token": "post", "between": "s1"})

    assert (stages["token"], stages["between"], stages["between.bias"], stages["scale"]) == ("post", "s1", "s1", "stem")


def test_a_network_without_stages_is_all_stem():
    net = Net()

    assert {StageMap(net, {})[path] for path in paths(net)} == {"stem"}


def test_a_stage_that_ends_nowhere_is_refused():
    with pytest.raises(UnknownName, match=r"Stage s2 ends in 'z', which Net does not have\."):
        StageMap(Net(), {"s1": "a", "s2": "z"})


def test_a_path_that_is_not_there_is_refused():
    with pytest.raises(UnknownName, match=r"no module, parameter or buffer 'a\.9'"):
        StageMap(Net(), {"s1": "a"})["a.9"]


def spec(*inputs: InputSpec, capabilities=("maps", "pooled")) -> BackboneSpec:
    return BackboneSpec(
        reference="acme:tiny",
        provider="acme",
        architecture="tiny",
        library="acme",
        library_version="1",
        modality="image",
        inputs=inputs or (InputSpec(name="image", kind="image", rank=4, channels=3, size=(64, 64), divisor=32),),
        pooled_dim=8,
        stages=(StageSpec(name="stem"), StageSpec(name="s1", channels=8, reduction=8), StageSpec(name="post")),
        capabilities=capabilities,
        parameters=1,
        pooling="mean",
    )


FIXED = InputSpec(name="image", kind="image", rank=4, channels=3, size=(64, 48), fixed_size=True)
TEXT = (
    InputSpec(name="input_ids", kind="tokens", rank=2, dtype="int64"),
    InputSpec(name="mask", kind="mask", rank=2, dtype="int64", required=False),
)


class Mean(Backbone):
    """Pools the input, and notes of what type it came."""

    def extract(self, inputs, want):
        self.seen = inputs["image"].dtype
        return Features(pooled=inputs["image"].mean(dim=(2, 3)))

    def cut(self, want):
        return True


def test_each_batch_is_checked_and_converted_whatever_the_one_before_was():
    backbone = Mean(spec(), nn.Conv2d(3, 8, 1), StageMap(nn.Conv2d(3, 8, 1), {}))
    right = torch.zeros(2, 3, 64, 64)

    for wrong in (right[:, :1], right[0], right.byte(), right[..., :33], {"picture": right}):
        backbone(right)
        with pytest.raises(ShapeError):
            backbone(wrong)
    with pytest.raises(CapabilityError, match="gives no tokens"):
        backbone(right, Want(tokens=True))
    backbone(right)
    backbone.half()
    backbone(right)
    assert backbone.seen == torch.float16
    backbone(right, Want(maps=("s1",)))
    backbone.trim(Want())
    with pytest.raises(CapabilityError, match="was cut to what gives pooled"):
        backbone(right, Want(maps=("s1",)))


@pytest.mark.parametrize(
    ("given", "inputs", "words"),
    [
        (spec(), {"image": torch.zeros(3, 64, 64)}, "image as (batch, 3, height, width), got rank 3 (3, 64, 64)."),
        (spec(), {"image": torch.zeros(1, 1, 64, 64)}, "got 1 channels (1, 1, 64, 64); build it with '?in_channels=1'"),
        (spec(), {"image": torch.zeros(1, 3, 64, 64).byte()}, "of float32, got uint8."),
        (spec(), {"image": torch.zeros(1, 3, 65, 33)}, "divisible by 32, got 65×33; pad to 96×64."),
        (spec(FIXED), {"image": torch.zeros(1, 3, 48, 64)}, "pictures of 64×48 pixels only, got 48×64; resize them"),
        (spec(), {"picture": torch.zeros(1, 3, 64, 64)}, "acme:tiny takes image, got an input called 'picture'."),
        (spec(), {}, "needs the input 'image', got none."),
        (spec(*TEXT), {"input_ids": torch.zeros(2, 3)}, "takes input_ids as (batch, tokens) of int64, got float32."),
        (spec(*TEXT), {"input_ids": torch.zeros(3).long()}, "takes input_ids as (batch, tokens), got rank 1 (3,)."),
        (spec(*TEXT), {"mask": torch.zeros(2, 3).long()}, "needs the input 'input_ids', got mask."),
    ],
)
def test_an_input_that_does_not_fit_is_answered_with_what_was_expected_and_what_came(given, inputs, words):
    with pytest.raises(ShapeError, match=r"^acme:tiny [^\n]+$") as caught:
        check_inputs(given, inputs)

    assert words in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_inputs_that_fit_pass_in_any_float(dtype):
    check_inputs(spec(), {"image": torch.zeros(2, 3, 96, 32, dtype=dtype)})
    check_inputs(spec(*TEXT), {"input_ids": torch.zeros(2, 3, dtype=torch.int64)})


@pytest.mark.parametrize(
    ("want", "words"),
    [
        (Want(tokens=True), "gives no tokens; it gives maps, pooled."),
        (Want(maps=("s1", "s9")), "gives no map 's9'; its maps are s1."),
        (Want(maps=("stem",)), "gives no map 'stem'; its maps are s1."),
    ],
)
def test_a_wish_that_the_backbone_cannot_grant_is_refused(want, words):
    with pytest.raises(CapabilityError) as caught:
        check_want(spec(), want)

    assert words in str(caught.value)


def test_a_backbone_may_have_no_pooled_vector():
    with pytest.raises(CapabilityError, match="gives no pooled vector; it gives maps"):
        check_want(spec(capabilities=("maps",)), Want())


def test_embed_is_given_by_parts_of_dual_models_alone():
    with pytest.raises(CapabilityError, match="gives no embed, which a part of a dual-tower model does"):
        check_want(spec(), Want(embed=True))
    check_want(spec(capabilities=("embed", "pooled")), Want(embed=True))


def test_a_wish_for_less_is_within_one_for_more():
    assert Want() <= Want(embed=True)
    assert not Want(embed=True) <= Want(tokens=True)
    assert (Want(pooled=False, embed=True) | Want()) == Want(embed=True)
    assert (Needs(pooled=True) | Needs(embed=True)) == Needs(pooled=True, embed=True)


def test_wishes_add_up():
    assert Want(pooled=False, maps=("s2", "s1")) | Want(tokens=True, maps=("s1", "s3")) == Want(
        pooled=True, tokens=True, maps=("s2", "s1", "s3")
    )
