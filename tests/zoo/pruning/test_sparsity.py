"""Zero weights: which ones, how many, and torch's own pruning as the truth."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import zoo
from zoo.errors import ConfigError

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def layers(model):
    return [layer for layer in model.backbones["main"].native.modules() if isinstance(layer, LAYERS)]


def build(reference="timm:test_resnet"):
    head = {"type": "classifier", "name": "kind", "classes": ["a", "b"]}
    return zoo.build(reference, head, weights=None, seed=0)


@pytest.mark.parametrize("reference", ["timm:test_resnet", "timm:test_vit"])
def test_the_smallest_weights_of_all_layers_are_zero_as_torch_has_it(reference, tmp_path):
    model, truth = build(reference), build(reference)
    report = zoo.prune(model, sparsity=0.7)
    pairs = [(layer, "weight") for layer in layers(truth)]
    torch_prune.global_unstructured(pairs, pruning_method=torch_prune.L1Unstructured, amount=0.7)
    weights = [layer.weight for layer in layers(model)]

    assert all(torch.equal(weight, layer.weight) for weight, layer in zip(weights, layers(truth), strict=True))
    total = sum(weight.numel() for weight in weights)
    assert sum(int((weight == 0).sum()) for weight in weights) == round(0.7 * total)
    assert report.sparsity == pytest.approx(0.7, abs=1 / total)
    assert report.macs_after is None
    assert report.parameters_before == report.parameters_after
    model.save(tmp_path / "sparse")
    assert torch.equal(layers(zoo.load(tmp_path / "sparse"))[0].weight, weights[0])


@pytest.mark.parametrize("importance", ["l1", "random"])
def test_the_share_holds_for_each_layer_as_torch_has_it(importance):
    model, truth = build(), build()
    zoo.prune(model, sparsity=0.6, ranking="local", importance=importance)
    for layer, one in zip(layers(truth), layers(model), strict=True):
        assert int((one.weight == 0).sum()) == round(0.6 * one.weight.numel())
        if importance == "l1":
            torch_prune.l1_unstructured(layer, "weight", amount=round(0.6 * one.weight.numel()))
            assert torch.equal(one.weight, layer.weight)


def test_more_zeros_than_asked_for_stay_and_further_ones_are_added_to_them():
    model = build()
    zoo.prune(model, sparsity=0.5)
    first = [layer.weight.detach().clone() for layer in layers(model)]
    assert zoo.prune(model, sparsity=0.2).sparsity == pytest.approx(0.5, abs=1e-4)
    assert all(torch.equal(weight, layer.weight) for weight, layer in zip(first, layers(model), strict=True))
    zoo.prune(model, sparsity=0.8, importance="random", seed=1)
    assert all(bool((layer.weight[weight == 0] == 0).all()) for weight, layer in zip(first, layers(model), strict=True))
    assert sum(int((layer.weight == 0).sum()) for layer in layers(model)) == round(
        0.8 * sum(layer.weight.numel() for layer in layers(model))
    )


def test_random_zeros_are_of_their_seed_and_leave_the_generator_alone():
    states = []
    for seed in (0, 0, 1):
        model = build()
        before = torch.get_rng_state()
        zoo.prune(model, sparsity=0.5, importance="random", seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        states.append(layers(model)[1].weight.detach())
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_a_share_of_one_would_leave_nothing():
    with pytest.raises(ConfigError, match="sparsity must be a share above 0 and below 1"):
        zoo.prune(build(), sparsity=1)
