"""The stages of a model: what the rows say, frozen heads, pinned norms, and names that are not there."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import zoo
from zoo.errors import UnknownName
from zoo.freezing import has_statistics, is_pinned


def build(name="test_resnet", streams=None):
    colour = {"type": "classifier", "name": "colour", "classes": ["a", "b"], "dropout": 0.5}
    shape = {"type": "classifier", "name": "shape", "classes": ["a", "b", "c"]}
    if streams is not None:
        colour["stream"] = shape["stream"] = next(iter(streams))
    return zoo.build(streams or f"timm:{name}", [colour, shape], weights=None, seed=0)


def step(model, image):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    targets = {"colour": torch.tensor([0, 1, 0, 1]), "shape": torch.tensor([0, 1, 2, 0])}
    sum(model.losses(model(image), targets).values()).backward()
    optimizer.step()
    model.zero_grad()


def changed(model, before):
    return {key for key, value in model.state_dict().items() if not torch.equal(before[key], value)}


@pytest.fixture
def image():
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_a_row_says_what_a_stage_holds_whether_it_rests_and_at_what_rate_it_was_trained():
    model = build().freeze("s1").freeze("heads.shape")
    model.rates = {"main.s1": 0.5, "main.s2": 0.25, "heads": 1.0}
    rows = {row.name: row for row in model.stages()}

    assert [row.name for row in model.stages() if row.frozen] == ["main.stem", "main.s1", "heads.shape"]
    assert (rows["main.s1"].rate, rows["main.s2"].rate, rows["main.s3"].rate) == (None, 0.25, None)
    assert (rows["heads.colour"].rate, rows["heads.shape"].rate) == (1.0, None)
    assert rows["heads.colour"].parameters == sum(p.numel() for p in model.heads["colour"].parameters())


def test_a_frozen_head_rests_while_the_others_learn(image):
    model = build().freeze("heads.colour")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for module in model.train().modules():
        module.train()
    outputs = [model.eval()(image)["colour"], model.freeze().train()(image)["colour"]]
    step(model, image)

    assert torch.equal(*outputs)
    assert changed(model, before) == {key for key in before if key.startswith("heads.shape.")}
    assert model.frozen_heads == {"colour"}


def test_heads_are_frozen_together_and_train_again():
    model = build().train().freeze("heads")

    assert model.frozen_heads == {"colour", "shape"}
    assert not any(p.requires_grad for head in model.heads.values() for p in head.parameters())
    model.unfreeze("heads.shape")
    assert model.frozen_heads == {"colour"}
    assert all(module.training for module in model.heads["shape"].modules())
    assert model.freeze().unfreeze().frozen_heads == frozenset()
    assert all(p.requires_grad for p in model.parameters())


def test_unfreezing_a_head_leaves_the_stages_as_they_are():
    model = build().freeze("s2").freeze("heads").unfreeze("heads")

    assert model.frozen() == {"main": frozenset({"stem", "s1", "s2"})}


@pytest.mark.parametrize("act", ["freeze", "unfreeze"])
@pytest.mark.parametrize("name", ["heads.color", "heads.", "heads.colour.weight"])
def test_a_head_that_is_not_there_is_named_with_those_that_are(act, name):
    model = build()

    with pytest.raises(UnknownName, match=r"The model has no head '.*'; its heads are .*colour"):
        getattr(model, act)(name)
    assert model.frozen_heads == frozenset()


def test_a_model_without_heads_has_none_to_freeze():
    with pytest.raises(UnknownName, match="its heads are none"):
        zoo.build("timm:test_resnet", weights=None).freeze("heads")


def test_a_stream_that_is_called_heads_is_a_stream():
    model = build(streams={"heads": "timm:test_resnet"}).freeze("heads.s1")

    assert model.frozen() == {"heads": frozenset({"stem", "s1"})}
    assert model.frozen_heads == frozenset()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("test_resnet", nn.BatchNorm2d), ("levit_128s", nn.BatchNorm1d)])
def test_pinned_norms_keep_their_statistics_while_their_weights_and_all_else_learn(name, kind):
    model = build(name).freeze_norms().train()
    size = model.spec.streams["main"].backbone.inputs[0].size
    norms = {path: module for path, module in model.backbones["main"].native.named_modules() if has_statistics(module)}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for module in model.modules():
        module.train()
    step(model, torch.randn(4, 3, *size))

    assert any(isinstance(module, kind) for module in norms.values())
    assert all(is_pinned(module) for module in norms.values())
    statistics = {key for key in before if key.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    moved = changed(model, before)
    assert moved.isdisjoint(statistics)
    assert {f"backbones.main.native.{path}.weight" for path in norms} <= moved


def test_the_weights_of_pinned_norms_can_be_frozen_too(image):
    model = build().freeze_norms("s1", "s3", weights=True).train()
    backbone = model.backbones["main"]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    step(model, image)

    norms = {
        f"backbones.main.native.{path}.{tensor}"
        for path, module in backbone.native.named_modules()
        if has_statistics(module) and backbone.stage_of(path) in ("s1", "s3")
        for tensor in module.state_dict()
    }
    moved = changed(model, before)
    assert norms
    assert moved.isdisjoint(norms)
    assert {key for key in before if key.endswith(("conv1.weight", "bn1.running_mean"))} - norms <= moved


def test_pinned_norms_stay_so_through_freezing_and_unfreezing_until_they_are_let_go():
    model = build().freeze_norms("s2").freeze("s3").unfreeze().train()
    native = model.backbones["main"].native

    assert is_pinned(native.layer2[0].bn1)
    assert not native.layer2[0].bn1.training
    assert native.layer2[0].bn1.weight.requires_grad
    assert native.layer1[0].bn1.training
    assert copy.deepcopy(model).train().backbones["main"].native.layer2[0].bn1.training is False
    assert model.unfreeze_norms().backbones["main"].native.layer2[0].bn1.training
    assert not any(is_pinned(module) for module in model.modules())


def test_pinning_all_norms_does_not_loosen_the_weights_of_some():
    model = build().freeze_norms("s1", weights=True).freeze_norms()

    assert model.pinned_norms["main"]["s1"] is True
    assert model.pinned_norms["main"]["s2"] is False
    assert not model.backbones["main"].native.layer1[0].bn1.weight.requires_grad


def test_norms_may_be_pinned_in_one_stream_alone():
    model = build(streams={"a": "timm:test_resnet", "b": "timm:test_resnet"}).freeze_norms("b.s1").train()

    assert model.pinned_norms == {"b": {"s1": False}}
    assert model.backbones["a"].native.layer1[0].bn1.training
    assert not model.backbones["b"].native.layer1[0].bn1.training


@pytest.mark.parametrize(
    ("name", "words"), [("s9", "no stage 's9'; its stages are stem, s1"), ("x.s1", "no stream 'x'")]
)
def test_norms_of_a_stage_that_is_not_there_are_an_error(name, words):
    model = build()

    with pytest.raises(UnknownName, match=words):
        model.freeze_norms("s1", name)
    assert model.pinned_norms == {}


def test_instance_norm_with_statistics_rests_and_group_norm_has_none_to_keep():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True, track_running_stats=True))
            self.two = nn.Sequential(nn.Conv2d(4, 8, 3), nn.GroupNorm(2, 8), nn.Dropout(0.5))

        def forward(self, x):
            return self.two(self.one(x)).mean((2, 3))

    stages = {"s1": "one", "s2": "two"}
    wrapped = zoo.wrap(Own(), inputs=torch.zeros(2, 3, 16, 16), stages=stages)
    model = zoo.build(wrapped, [{"type": "classifier", "name": "kind", "classes": ["a", "b"]}])
    model.freeze_norms().train()
    native = model.backbones["main"].native
    before = {key: value.clone() for key, value in native.named_buffers()}
    model(torch.randn(4, 3, 16, 16))["kind"].sum().backward()

    assert [key for key, value in native.named_buffers() if not torch.equal(before[key], value)] == []
    assert native.two[1].training
    assert native.two[1].weight.grad is not None
