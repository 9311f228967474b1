"""An adapter leaves the backbone as it is: its tree, its keys, its classes; only what the layers give changes."""

import copy
import pickle
import sys

import pytest
import torch
from torch import nn

import zoo
from zoo.adapters.layers import adapter_of
from zoo.bundle.digest import state_digest
from zoo.errors import ConfigError, PluginError

EVERYWHERE = [
    *("timm:test_vit", "timm:test_efficientnet", "torchvision:resnet18"),
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("torchvision:vit_b_32", "hf:vit", "hf:resnet", "hf:bert")
    ),
]


def formed(native):
    return [(name, type(module)) for name, module in native.named_modules()], list(native.state_dict())


@pytest.mark.parametrize("reference", EVERYWHERE)
def test_a_new_adapter_changes_no_output_and_no_name(build, kit, reference):
    model = build(reference)
    native, inputs = model.backbones["main"].native, kit.batch(model)
    before, form, digest = kit.run(model, inputs), formed(native), state_digest(native.state_dict())

    [adapter] = model.add_adapters(rank=2)

    assert torch.equal(kit.run(model, inputs), before)
    assert formed(native) == form
    assert state_digest(native.state_dict()) == digest
    assert not adapter.has_learnt()
    assert all(model.backbones["main"].stage_of(path) for path in adapter.spec.targets)


@pytest.mark.slow
@pytest.mark.parametrize("reference", EVERYWHERE)
def test_what_is_learnt_is_merged_to_equal_outputs_or_taken_off_without_a_trace(build, kit, reference):
    model = build(reference)
    inputs = kit.batch(model)
    plain, form = kit.run(model, inputs), formed(model.backbones["main"].native)
    digest = state_digest(model.backbones["main"].native.state_dict())
    model.add_adapters(rank=2)
    kit.learn(model)
    learnt = kit.run(model, inputs)
    assert not torch.allclose(learnt, plain, atol=1e-4)
    merged, removed = copy.deepcopy(model), copy.deepcopy(model)

    merged.merge_adapters()
    removed.remove_adapters()

    torch.testing.assert_close(kit.run(merged, inputs), learnt, rtol=1e-4, atol=1e-5)
    assert state_digest(merged.backbones["main"].native.state_dict()) != digest
    assert torch.equal(kit.run(removed, inputs), plain)
    assert state_digest(removed.backbones["main"].native.state_dict()) == digest
    assert torch.equal(kit.run(model, inputs), learnt)
    for other in (merged, removed):
        assert other.adapters == []
        assert formed(other.backbones["main"].native) == form
        assert not any("forward" in vars(module) for module in other.modules())


def test_a_merged_weight_is_the_sum_of_the_paper(build, kit):
    model = build("timm:test_vit")
    [adapter] = model.add_adapters(rank=3, alpha=7, targets="blocks.0.attn.qkv")
    kit.learn(model)
    layer = model.backbones["main"].native.blocks[0].attn.qkv
    part = adapter.parts.get_submodule("blocks.0.attn.qkv")
    expected = layer.weight + 7 / 3 * part.lora_B.weight @ part.lora_A.weight

    model.merge_adapters()

    torch.testing.assert_close(layer.weight, expected)


def test_an_adapted_convolution_gives_the_sum_of_two_convolutions(build, kit):
    model = build("timm:test_resnet")
    [adapter] = model.add_adapters(rank=2, alpha=6, targets="layer2.0.conv2")
    kit.learn(model)
    path = adapter.spec.targets[0]
    layer, part = model.backbones["main"].native.get_submodule(path), adapter.parts.get_submodule(path)
    x = torch.randn(2, layer.in_channels, 9, 9)

    own = nn.functional.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding)
    low = nn.functional.conv2d(x, part.lora_A.weight, None, layer.stride, layer.padding)

    torch.testing.assert_close(layer(x), own + 3 * nn.functional.conv2d(low, part.lora_B.weight))


def test_hooks_see_what_the_adapted_layer_gives_and_run_once(build, kit):
    model = build("timm:test_vit")
    layer = model.backbones["main"].native.blocks[0].attn.qkv
    seen = []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    plain = kit.run(model, kit.batch(model))
    model.add_adapters(rank=2, targets="blocks.0.attn.qkv")
    kit.learn(model)
    without = seen[0]
    seen.clear()

    assert not torch.equal(kit.run(model, kit.batch(model)), plain)
    assert len(seen) == 1
    assert not torch.equal(seen[0], without)


def test_only_adapters_get_gradients_where_the_base_rests_and_the_base_gets_them_where_it_does_not(build, kit):
    model = build("timm:test_vit").train()
    [adapter] = model.add_adapters(rank=2, targets=["qkv"])
    kit.learn(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    model(kit.batch(model))["kind"].sum().backward()
    qkv = model.backbones["main"].native.blocks[0].attn.qkv
    assert qkv.weight.grad is not None
    assert all(bool(parameter.grad.any()) for parameter in adapter.parameters())


def test_a_frozen_stage_rests_with_what_stands_beside_its_layers(build):
    model = build("timm:test_vit").train()
    model.add_adapters(rank=2, dropout=0.5)
    [adapter] = model.adapters
    model.freeze("s2").train()
    stage_of = model.backbones["main"].stage_of
    resting = {path: part for path, part in adapter.named_parts() if stage_of(path) in ("stem", "s1", "s2")}

    assert 0 < len(resting) < len(adapter.spec.targets)
    for path, part in adapter.named_parts():
        assert part.lora_dropout.training is (path not in resting)
        assert {parameter.requires_grad for parameter in part.parameters()} == {path not in resting}
    model.unfreeze().train()
    assert all(part.lora_dropout.training for _, part in adapter.named_parts())


def test_a_model_lists_where_its_adapters_are(build):
    model = build("timm:test_vit")
    before = {row.name: row.parameters for row in model.stages()}
    [adapter] = model.add_adapters(rank=2)

    rows = {row.name: row for row in model.stages()}

    assert sum(row.adapters for row in rows.values()) == sum(p.numel() for p in adapter.parameters()) > 0
    assert {name: row.parameters - row.adapters for name, row in rows.items()} == before
    assert rows["main.stem"].adapters == 0 < rows["main.s1"].adapters


def test_a_model_with_adapters_copies_pickles_and_changes_its_dtype(build, kit):
    model = build("timm:test_vit")
    model.add_adapters(rank=2)
    kit.learn(model)
    inputs = kit.batch(model)
    learnt = kit.run(model, inputs)
    twin, thawed = copy.deepcopy(model), pickle.loads(pickle.dumps(model))

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()

    for other in (twin, thawed):
        assert torch.equal(kit.run(other, inputs), learnt)
    double = kit.run(twin.double(), inputs.double())
    assert double.dtype is torch.float64
    torch.testing.assert_close(double.float(), learnt, rtol=1e-4, atol=1e-5)


def test_tensors_that_are_poured_in_later_are_those_that_run(build, kit):
    model, other = build("timm:test_vit"), zoo.build("timm:test_vit", weights=None, seed=5)
    model.add_adapters(rank=2)
    kit.learn(model)
    before = kit.run(model, kit.batch(model))
    native = model.backbones["main"].native

    native.load_state_dict(other.backbones["main"].native.state_dict(), assign=True)

    poured = kit.run(model, kit.batch(model))
    assert not torch.allclose(poured, before)
    model.merge_adapters()
    torch.testing.assert_close(kit.run(model, kit.batch(model)), poured, rtol=1e-4, atol=1e-5)


def test_the_same_adapters_stay_others_are_refused_once_they_have_learnt(build, kit):
    model = build("timm:test_vit")
    first = model.add_adapters(rank=2)
    assert model.add_adapters(rank=3) != first
    second = kit.learn(model).adapters

    assert model.add_adapters(rank=3) == second
    with pytest.raises(ConfigError, match=r"has the adapter 'lora' already, and it is another .* merge_adapters"):
        model.add_adapters(rank=4)
    assert model.adapters == second


def test_the_seed_decides_the_adapter_and_the_global_generator_is_left_alone(build):
    drawn = []
    for seed in (3, 3, 4):
        model = build("timm:test_vit")
        state = torch.get_rng_state()
        [adapter] = model.add_adapters(seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        drawn.append(torch.cat([parameter.flatten() for parameter in adapter.parameters()]))

    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_weight_that_would_not_be_finite_is_not_merged(build, kit):
    model = build("timm:test_vit")
    [adapter] = model.add_adapters(rank=2)
    kit.learn(model)
    adapter.parts.get_submodule("blocks.1.attn.qkv").lora_B.weight.data[0] = torch.inf
    digest = state_digest(model.backbones["main"].native.state_dict())

    with pytest.raises(ConfigError, match=r"blocks\.1\.attn\.qkv\.weight would not be finite"):
        model.merge_adapters()

    assert state_digest(model.backbones["main"].native.state_dict()) == digest
    assert adapter_of(model.backbones["main"]) is adapter


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank must be a whole number from 1 to 4096, got 0"),
        ({"rank": True}, "rank must be a whole number"),
        ({"rank": 10**6}, "rank must be a whole number"),
        ({"alpha": 0}, "alpha must be above 0"),
        ({"alpha": float("nan")}, "alpha must be a finite number"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"name": "a.b"}, "An adapter's name must be of letters"),
    ],
)
def test_values_outside_their_range_are_refused_and_nothing_is_added(build, settings, message):
    model = build("timm:test_vit")

    with pytest.raises(ConfigError, match=message):
        model.add_adapters(**settings)

    assert model.adapters == []


def test_without_peft_the_message_says_what_to_install(build, monkeypatch):
    from zoo.adapters.peft_form import import_peft

    model = build("timm:test_vit")
    import_peft.cache_clear()
    monkeypatch.setitem(sys.modules, "peft", None)

    with pytest.raises(PluginError, match=r"^Adapters need PEFT; install it with: pip install 'headzoo\[lora\]'\.$"):
        model.add_adapters()

    assert model.adapters == []
    import_peft.cache_clear()


@pytest.mark.slow
def test_each_backbone_has_an_adapter_of_its_own_and_a_shared_one_has_one():
    inner = {"type": "classifier", "classes": ["a", "b"]}
    head = zoo.head("feature_fusion", name="kind", head=inner, method="concat")
    both = {"left": "timm:test_resnet", "right": "timm:test_vit"}
    model = zoo.build(both, head, inputs="image", weights=None, seed=0)
    siamese = zoo.build({"left": "timm:test_resnet"}, head, share={"right": "left"}, weights=None, seed=0)

    made = model.add_adapters(rank=2)

    assert [(one.spec.name, one.spec.stream) for one in made] == [("lora-left", "left"), ("lora-right", "right")]
    assert [one.spec.name for one in siamese.add_adapters(rank=2)] == ["lora"]
