"""Freezing: what is frozen rests, bit for bit, whoever calls ``.train()``."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import zoo
from zoo.errors import UnknownName
from zoo.freezing import is_pinned
from zoo.testing.backbones import example_inputs

# Inverted residuals, BatchNorm1d in attention, windows, plain ViT, LayerNorm2d, squeeze and excitation, no norm at all.
FAMILIES = {
    "mobilenetv3_small_050": "drop_rate=0.3&drop_path_rate=0.3",
    "levit_128s": "drop_path_rate=0.3",
    "test_vit": "drop_path_rate=0.3",
    "test_convnext": "drop_path_rate=0.3",
    "convnext_atto": "drop_path_rate=0.3",
    "regnety_002": "drop_path_rate=0.3",
    "test_efficientnet": "drop_path_rate=0.3",
    "swin_tiny_patch4_window7_224": "img_size=56&drop_path_rate=0.3",
    "test_nfnet": "drop_path_rate=0.3",
}
TRAIN = {
    "the model": lambda model: model.train(),
    "the backbone": lambda model: model.backbones["main"].train(),
    "the native module": lambda model: model.backbones["main"].native.train(),
    "every submodule": lambda model: [module.train() for module in model.backbones["main"].native.modules()],
    "the model after eval": lambda model: model.eval().train(True),
}


def build(name="test_resnet", options=""):
    head = zoo.head("classifier", name="kind", classes=["a", "b"])
    model = zoo.build(f"timm:{name}{'?' + options if options else ''}", head, weights=None, seed=0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    return model


def batch(model, count=4):
    return example_inputs(model.spec.streams["main"].backbone, batch=count)["image"]


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def train(model, steps=3, call=TRAIN["the model"]):
    """Take steps that change everything that may change, decay included."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    image, targets = batch(model), {"kind": torch.tensor([0, 1, 0, 1])}
    model.train()
    call(model)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(model.losses(model(image), targets).values()).backward()
        optimizer.step()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_three_training_steps_leave_what_is_frozen_bit_equal(name):
    model = build(name, FAMILIES[name])
    model.freeze()
    before, image = state(model), batch(model)
    with torch.no_grad():
        pooled = model.features(image)["main"].pooled
    train(model)

    changed = {key for key, value in model.state_dict().items() if not torch.equal(before[key], value)}
    assert changed == {key for key in before if key.startswith("heads.")}
    with torch.no_grad():
        assert torch.equal(model.features(image)["main"].pooled, pooled)
        assert torch.equal(model.eval().features(image)["main"].pooled, pooled)


@pytest.mark.slow
@pytest.mark.parametrize("call", TRAIN)
@pytest.mark.parametrize("name", ["levit_128s", "test_efficientnet"])
def test_whoever_calls_train_what_is_frozen_rests(name, call):
    model = build(name, FAMILIES[name])
    model.freeze()
    before, image = state(model), batch(model)
    with torch.no_grad():
        pooled = model.features(image)["main"].pooled
    train(model, call=TRAIN[call])

    changed = {key for key, value in model.state_dict().items() if not torch.equal(before[key], value)}
    assert changed == {key for key in before if key.startswith("heads.")}
    with torch.no_grad():
        assert torch.equal(model.features(image)["main"].pooled, pooled)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "test_resnet", "test_vit", "test_convnext", "test_nfnet"])
def test_freezing_until_a_stage_trains_all_that_comes_after(name):
    model = build(name)
    model.freeze("s2")
    backbone, before = model.backbones["main"], state(model)
    first = [stage.name for stage in backbone.spec.stages if stage.name in ("stem", "s1", "s2")]
    train(model)

    for key, value in model.state_dict().items():
        path = key.removeprefix("backbones.main.native.")
        frozen = path != key and backbone.stage_of(path) in first
        if frozen:
            assert torch.equal(before[key], value), key
        elif value.is_floating_point():
            assert not torch.equal(before[key], value), key
    assert model.frozen() == {"main": frozenset(first)}


def test_the_maps_of_frozen_stages_stay_equal_while_the_rest_trains():
    model = zoo.build("timm:test_resnet?drop_path_rate=0.5", weights=None, seed=0)
    model.freeze("s2")
    image, want = batch(model), zoo.Want(maps=("s1", "s2", "s3"))
    with torch.no_grad():
        before = model.backbones["main"](image, want).maps
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        model.features(image)["main"].pooled.square().mean().backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        after = model.backbones["main"](image, want).maps

    assert torch.equal(before["s1"], after["s1"])
    assert torch.equal(before["s2"], after["s2"])
    assert not torch.equal(before["s3"], after["s3"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_vit", "mobilenetv3_small_050"])
def test_dropout_and_drop_path_rest_in_a_frozen_backbone(name):
    model = build(name, "drop_rate=0.5&drop_path_rate=0.5")
    image = batch(model)
    model.train()
    with torch.no_grad():
        loose = [model.features(image)["main"].pooled for _ in range(2)]
        model.freeze()
        resting = [model.features(image)["main"].pooled for _ in range(2)]

    assert not torch.equal(*loose)
    assert torch.equal(*resting)


def test_a_module_is_pinned_just_if_all_in_it_is_frozen():
    native = build().freeze("s1").backbones["main"].native

    assert is_pinned(native.layer1)
    assert is_pinned(native.conv1)
    assert not is_pinned(native.layer2)
    assert not is_pinned(native)


def test_unfreezing_lets_everything_train_again():
    model = build().freeze().unfreeze()
    before = state(model)
    train(model)

    assert all(p.requires_grad for p in model.parameters())
    assert not any(is_pinned(module) for module in model.modules())
    assert [key for key, value in model.state_dict().items() if torch.equal(before[key], value)] == []
    assert model.frozen() == {"main": frozenset()}


def test_unfreezing_since_a_stage_keeps_what_comes_before_frozen():
    model = build().freeze().unfreeze("s3")

    assert model.frozen() == {"main": frozenset({"stem", "s1", "s2"})}
    assert [row.name for row in model.stages() if row.frozen] == ["main.stem", "main.s1", "main.s2"]


def test_freezing_more_adds_to_what_is_frozen():
    model = build().freeze("s3").freeze("s1")

    assert model.frozen() == {"main": frozenset({"stem", "s1", "s2", "s3"})}


def test_a_stage_may_be_frozen_in_one_stream_alone():
    head = zoo.head("classifier", name="kind", classes=["a", "b"], stream="a")
    model = zoo.build({"a": "timm:test_resnet", "b": "timm:test_vit"}, head, weights=None).freeze("b.s1")

    assert model.frozen() == {"a": frozenset(), "b": frozenset({"stem", "s1"})}
    assert model.freeze("s1").frozen()["a"] == {"stem", "s1"}


@pytest.mark.parametrize(
    ("until", "words"),
    [
        ("s9", "has no stage 's9'; its stages are stem, s1, s2, s3, s4, post"),
        ("main.s9", "has no stage 's9'"),
        ("side.s1", "no stream 'side'; it has main"),
        ("", "has no stage ''"),
    ],
)
@pytest.mark.parametrize("act", ["freeze", "unfreeze"])
def test_a_stage_that_is_not_there_is_named_with_those_that_are(act, until, words):
    model = build()

    with pytest.raises(UnknownName, match=words):
        getattr(model, act)(until)
    assert model.frozen() == {"main": frozenset()}


@pytest.mark.parametrize("mode", [True, False])
def test_freezing_keeps_the_mode_of_what_is_not_frozen(mode):
    model = build().train(mode).freeze("s1")

    assert model.backbones["main"].native.layer4.training is mode
    assert model.backbones["main"].native.layer1.training is False
    assert model.unfreeze().backbones["main"].native.layer1.training is mode


@pytest.mark.slow
def test_freezing_changes_no_key_and_no_class():
    model = build("levit_128s")
    keys, classes = list(model.state_dict()), [type(module) for module in model.modules()]
    model.freeze("s2")

    assert list(model.state_dict()) == keys
    assert [type(module) for module in model.modules()] == classes


@pytest.mark.slow
def test_a_copy_is_frozen_by_itself():
    model = build("levit_128s").freeze()
    copied = copy.deepcopy(model)
    before = state(copied)
    train(copied)

    changed = {key for key, value in copied.state_dict().items() if not torch.equal(before[key], value)}
    assert changed == {key for key in before if key.startswith("heads.")}
    copied.unfreeze().train()
    assert not any(module.training for module in model.backbones["main"].native.modules())
    assert all(module.training for module in copied.backbones["main"].native.modules())


def test_gradients_of_what_is_frozen_are_dropped():
    model = build().train()
    model(batch(model))["kind"].sum().backward()
    model.freeze("s1")

    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert frozen
    assert all(p.grad is None for p in frozen)
    assert next(model.heads["kind"].parameters()).grad is not None
