"""The backbone gives, bit for bit, what torchvision's own model computes with the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zoo.contracts.features import Want


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def all_maps(truth) -> Want:
    return Want(maps=tuple(stage.name for stage in truth.backbone.spec.maps))


@pytest.mark.slow
def test_the_pooled_vector_is_what_the_last_layer_of_the_library_receives(truth):
    pooled = truth.backbone(truth.image).pooled

    received = truth.received
    if received.ndim == 4:  # squeezenet pools after its convolutional classifier
        received = received.mean(dim=(2, 3))
        torch.testing.assert_close(pooled, received)
    else:
        assert torch.equal(pooled, received)
    assert pooled.shape == (2, truth.backbone.spec.pooled_dim)


def test_the_last_layer_of_the_library_gives_its_own_logits_on_our_features(truth):
    features = truth.backbone(truth.image, all_maps(truth))
    if isinstance(truth.last, nn.Conv2d):
        logits = truth.last(features.maps["s3"]).relu().mean(dim=(2, 3))
        torch.testing.assert_close(logits, truth.logits)
    else:
        assert torch.equal(truth.last(features.pooled), truth.logits)


def test_the_maps_are_the_intermediate_activations_of_the_library(truth):
    features = truth.backbone(truth.image, all_maps(truth))

    assert features.maps.keys() == truth.maps.keys()
    for stage, expected in truth.maps.items():
        assert torch.equal(features.maps[stage], expected), stage


def test_one_pass_gives_the_same_pooled_vector_with_maps_and_without(truth):
    alone = truth.backbone(truth.image).pooled

    assert torch.equal(truth.backbone(truth.image, all_maps(truth)).pooled, alone)


def test_the_maps_are_nchw_with_the_declared_channels_and_reductions(truth):
    features = truth.backbone(truth.image, all_maps(truth))

    for stage in truth.backbone.spec.maps:
        batch, channels, height, width = features.maps[stage.name].shape
        assert (batch, channels) == (2, stage.channels)
        assert height == width
        if stage.level is not None and truth.case.name not in ("alexnet", "inception_v3"):
            assert height == -(-truth.case.size // stage.reduction)


def test_the_declared_reductions_hold_at_the_declared_size(truth):
    native, spec = truth.backbone.native, truth.backbone.spec
    if spec.inputs[0].size[0] > 400:
        pytest.skip("too large a picture for a test")
    seen = {}
    handles = [
        native.get_submodule(stage.module).register_forward_hook(
            lambda module, inputs, output, name=stage.name: seen.__setitem__(name, output)
        )
        for stage in spec.maps
    ]
    truth.backbone(torch.zeros(1, 3, *spec.inputs[0].size))
    for handle in handles:
        handle.remove()

    for stage in spec.maps:
        if truth.case.layout == "tokens":
            assert stage.reduction == 32
            continue
        height = seen[stage.name].shape[1 if truth.case.layout == "NHWC" else 2]
        exact = spec.inputs[0].size[0] / height
        assert stage.reduction == pytest.approx(exact, rel=0.04)


def test_only_the_wanted_is_given(truth):
    last = truth.backbone.spec.maps[-1].name

    features = truth.backbone(truth.image, Want(pooled=False, maps=(last,)))

    assert features.pooled is None
    assert list(features.maps) == [last]
    assert features.tokens is None


def test_the_state_dict_has_the_library_s_own_keys_without_the_last_layer(truth):
    from_library = {
        key
        for key in truth.last.state_dict(prefix=truth.case.last + ".")  # the keys that must be gone
    }

    own = set(truth.backbone.native.state_dict())

    assert not own & from_library
    assert all(not key.startswith(truth.case.dropped) for key in own if truth.case.dropped)
    assert {key.removeprefix("native.") for key in truth.backbone.state_dict()} == own


def test_the_spec_counts_the_parameters_that_are_there(truth):
    assert truth.backbone.spec.parameters == sum(p.numel() for p in truth.backbone.parameters())


def test_every_parameter_has_a_stage_and_the_stages_come_in_order(truth):
    spec, native = truth.backbone.spec, truth.backbone.native
    order = [stage.name for stage in spec.stages]

    stages = [truth.backbone.stage_of(name) for name in native.state_dict()]
    ranks = [order.index(stage) for stage in stages]

    assert order[0] == "stem"
    assert order[-1] == "post"
    assert ranks == sorted(ranks)
    assert truth.backbone.stage_of(next(n for n, m in native.named_modules() if isinstance(m, nn.Conv2d))) in (
        "stem",
        "s1",
    )
    for stage in spec.maps:
        assert truth.backbone.stage_of(stage.module) == stage.name


def test_a_stage_that_changes_changes_its_own_map_and_no_earlier_one(truth):
    spec, native = truth.backbone.spec, truth.backbone.native
    before = truth.backbone(truth.image, all_maps(truth)).maps
    names = [name for name, p in native.named_parameters() if truth.backbone.stage_of(name) == "s3" and p.ndim > 1]
    changed = native.get_parameter(names[-1])
    kept = changed.clone()

    changed.mul_(1.5).add_(0.1)
    after = truth.backbone(truth.image, all_maps(truth)).maps
    changed.copy_(kept)

    for stage in spec.maps:
        early = stage.name in ("stem", "s1", "s2")
        assert torch.equal(before[stage.name], after[stage.name]) == early, stage.name
