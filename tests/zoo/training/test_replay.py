"""Replayed prefixes: features, gradients and statistics above them are those of the live pass, bit for bit."""

import copy

import pytest
import torch
from torch import nn

import zoo
from zoo.contracts.features import Want
from zoo.training.features.flat import to_flat
from zoo.training.features.prefixes import NoPrefix, find_prefix, frozen_below
from zoo.training.features.replay import playing, record


def built(reference):
    return zoo.build(reference, {"type": "classifier", "name": "kind", "classes": ["a", "b"]}, weights=None, seed=0)


def pictures(model, rows=4):
    entry = model.spec.streams["main"].backbone.inputs[0]
    size = entry.size if entry.size and entry.fixed_size else (max(64, entry.least),) * 2
    return torch.randn(rows, entry.channels, *size, generator=torch.Generator().manual_seed(0))


def passed(model, inputs):
    """Run a pass in training mode and its gradients; give features, gradients and buffers, and put these back."""
    native = model.backbones["main"].native
    before = {name: buffer.clone() for name, buffer in native.named_buffers()}
    model.train().zero_grad()
    torch.manual_seed(3)
    features = to_flat(model.features(inputs))
    sum((value * torch.linspace(-1, 1, value.numel()).view_as(value)).sum() for value in features.values()).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    after = {name: buffer.clone() for name, buffer in native.named_buffers()}
    for name, buffer in native.named_buffers():
        buffer.copy_(before[name])
    return features, gradients, after


def compare(model, stages, want=None):
    """Compare a live pass with one on what was recorded; give the prefix."""
    if want is not None:
        model.wants["main"] = want
    images = pictures(model)
    prefix = find_prefix(model, "main", stages, images)
    model.set_frozen("main", frozenset(stages))
    recorded = record(model.eval().backbones["main"], prefix, images)
    live = passed(model, images)
    with playing(model, {"main": prefix}):
        played = passed(model, {"main": recorded})
    for one, other in zip(live, played, strict=True):
        assert one.keys() == other.keys()
        assert [name for name, value in one.items() if not torch.equal(value, other[name])] == []
    assert live[1], "nothing was trained"
    return prefix


def cuts(model):
    """Give the prefixes above which something trains: the lowest, one in the middle, and the highest."""
    backbone = model.backbones["main"]
    names = [stage.name for stage in backbone.spec.stages]
    held = [backbone.stage_of(name) for name, _ in backbone.native.named_parameters()]
    last = max(names.index(stage) for stage in held)
    return [tuple(names[:cut]) for cut in sorted({1, (last + 1) // 2, last} - {0})]


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["timm:test_vit", "timm:test_resnet", "timm:test_efficientnet"])
def test_what_trains_gets_the_same_features_and_gradients_from_a_replay(reference):
    for stages in cuts(built(reference)):
        compare(built(reference), stages)


FAMILIES = [
    *("timm:mobilenetv3_small_050", "timm:levit_128s", "timm:swin_tiny_patch4_window7_224?img_size=64"),
    *("timm:vit_tiny_patch16_224?img_size=64", "timm:convnext_atto", "timm:regnetx_002", "timm:crossvit_tiny_240"),
    *("timm:coat_tiny?img_size=64", "torchvision:resnet18", "torchvision:vit_b_16?img_size=64"),
    *("hf:resnet", "hf:vit?img_size=64"),
]


@pytest.mark.thin(6)
@pytest.mark.slow
@pytest.mark.parametrize("reference", FAMILIES)
def test_every_family_is_replayed_bit_for_bit_or_refused(reference):
    for stages in cuts(built(reference)):
        compare(built(reference), stages)


def test_maps_that_are_tapped_below_are_recorded_too():
    model = built("timm:test_resnet")

    prefix = compare(model, ("stem", "s1", "s2"), Want(pooled=True, maps=("s1", "s2", "s4")))

    assert {"layer1", "layer2"} <= {prefix.calls[number].path for _, number, _ in prefix.kept()}


def test_only_what_something_above_reads_is_kept():
    model = built("timm:test_resnet")

    prefix = compare(model, ("stem", "s1", "s2"))

    assert [prefix.calls[number].path for _, number, _ in prefix.kept()] == ["layer2"]
    assert prefix.row_bytes == record(model.eval().backbones["main"], prefix, pictures(model, 1))["replay/5/0"].nbytes


def test_the_rest_does_not_run_where_the_prefix_is_recorded():
    model = built("timm:test_resnet")
    prefix = find_prefix(model, "main", ("stem", "s1"), pictures(model))
    ran = []
    model.backbones["main"].native.layer3.register_forward_hook(lambda *_: ran.append(1))

    record(model.eval().backbones["main"], prefix, pictures(model))

    assert ran == []


def test_modules_of_the_prefix_do_not_run_on_a_replay_and_nothing_is_left_of_it():
    model = built("timm:test_resnet")
    native, keys = model.backbones["main"].native, list(model.state_dict())
    prefix = find_prefix(model, "main", ("stem", "s1"), pictures(model))
    recorded = record(model.eval().backbones["main"], prefix, pictures(model))
    ran = []
    native.layer1[0].register_forward_hook(lambda *_: ran.append("s1"))
    native.layer2[0].register_forward_hook(lambda *_: ran.append("s2"))

    with playing(model, {"main": prefix}):
        model({"main": recorded})

    assert ran == ["s2"]
    assert all("forward" not in vars(module) for module in model.modules())
    assert list(model.state_dict()) == keys


def test_a_copy_of_a_model_that_replays_replays_itself():
    model = built("timm:test_resnet")
    prefix = find_prefix(model, "main", ("stem", "s1"), pictures(model))
    recorded = record(model.eval().backbones["main"], prefix, pictures(model))
    with playing(model, {"main": prefix}):
        other = copy.deepcopy(model)
    with torch.no_grad():
        other.backbones["main"].native.layer4[0].conv1.weight.zero_()
        expected = other(pictures(model))["kind"]

        found = other({"main": recorded})["kind"]

    assert torch.equal(found, expected)


def test_the_search_leaves_the_model_and_the_generators_as_they_were(state, same):
    model = built("timm:test_resnet").train()
    model.set_frozen("main", frozenset({"stem"}))
    before, number, modes = state(model), torch.get_rng_state(), [m.training for m in model.modules()]

    find_prefix(model, "main", ("stem", "s1", "s2"), pictures(model))

    assert same(state(model), before)
    assert torch.equal(torch.get_rng_state(), number)
    assert [m.training for m in model.modules()] == modes
    assert model.frozen()["main"] == {"stem"}
    assert [p.grad for p in model.parameters() if p.grad is not None] == []


class Strange(nn.Module):
    """A network whose frozen part does what cannot be recorded."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.second = nn.Conv2d(8, 16, 3, 2, 1)
        self.third = nn.Conv2d(16 + (3 if how == "input" else 0), 24, 3, 2, 1)

    def forward(self, x):
        found = self.first(x)
        if self.how == "batch":
            found = found - found.mean(dim=0, keepdim=True)
        found = self.second(found)
        if self.how == "input":
            found = torch.cat([found, nn.functional.avg_pool2d(x, 4)], dim=1)
        return self.third(found).mean((2, 3))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("plain", None),
        ("batch", "depends on the others in its batch"),
        ("input", "not those of the live pass"),
    ],
)
def test_what_cannot_be_recorded_is_refused_with_a_reason(how, reason):
    torch.manual_seed(0)
    net = Strange(how)
    wrapped = zoo.wrap(
        net,
        inputs={"channels": 3, "size": (32, 32)},
        name="strange",
        stages={"s1": "first", "s2": "second", "s3": "third"},
    )
    model = zoo.build(wrapped, {"type": "classifier", "name": "kind", "classes": ["a", "b"]}, seed=0)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    if reason is None:
        assert find_prefix(model, "main", ("stem", "s1", "s2"), images).calls
        return
    with pytest.raises(NoPrefix, match=reason):
        find_prefix(model, "main", ("stem", "s1", "s2"), images)


def test_the_prefix_ends_below_the_lowest_stage_that_ever_trains():
    stages = ("stem", "s1", "s2", "post")

    assert frozen_below(stages, frozenset({"s2", "post"})) == ("stem", "s1")
    assert frozen_below(stages, frozenset({"s1", "post"})) == ("stem",)
    assert frozen_below(stages, frozenset({"stem"})) == ()
    assert frozen_below(stages, frozenset()) == stages
