"""A backbone that members share byte for byte runs once, and gives the very same bits."""

import pytest
import torch

import zoo


@pytest.fixture
def x():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def counted(model) -> list[int]:
    """Count the passes of a model's native backbone, by its first layer."""
    calls: list[int] = []
    layer = next(m for m in model.backbones["main"].native.modules() if isinstance(m, torch.nn.Conv2d))
    layer.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_a_common_backbone_runs_once_and_the_outputs_are_bit_equal(on_one_backbone, x):
    models = on_one_backbone(4)
    with torch.no_grad():
        alone = [model(x) for model in models]
    calls = [counted(model) for model in models]
    made = zoo.ensemble(models)

    with torch.no_grad():
        found = made.member_outputs(x)

    assert [len(one) for one in calls] == [1, 0, 0, 0]
    assert made.shared() == [("member1.main", "member2.main", "member3.main", "member4.main")]
    for n, outputs in enumerate(alone):
        assert all(torch.equal(found[name][n], output) for name, output in outputs.items())


def test_a_common_picture_is_prepared_and_passed_once(on_one_backbone, pictures):
    models = on_one_backbone(3)
    calls = [counted(model) for model in models]

    zoo.ensemble(models).predict(pictures, batch_size=3)

    assert [len(one) for one in calls] == [1, 0, 0]


def test_one_bit_of_difference_is_another_backbone(on_one_backbone, x):
    models = on_one_backbone(2)
    weight = next(models[1].backbones.parameters())
    weight.data.flatten()[0] = -weight.data.flatten()[0]

    assert zoo.ensemble(models).shared() == []


def test_negative_zero_and_zero_are_not_the_same_bytes(on_one_backbone):
    models = on_one_backbone(2)
    for model, zero in zip(models, (0.0, -0.0), strict=True):
        next(model.backbones.parameters()).data.flatten()[0] = zero

    assert zoo.ensemble(models).shared() == []


def test_a_member_that_is_changed_afterwards_runs_by_itself(on_one_backbone, x):
    models = on_one_backbone(3)
    made = zoo.ensemble(models)
    with torch.no_grad():
        made(x)
        next(models[1].backbones.parameters()).add_(0.1)
        found, alone = made.member_outputs(x), [model(x) for model in models]

    assert made.shared() == [("member1.main", "member3.main")]
    assert not torch.equal(alone[0]["age"], alone[1]["age"])
    for n, outputs in enumerate(alone):
        assert torch.equal(found["pet"][n], outputs["pet"])


def test_replaced_tensors_are_seen(on_one_backbone, x):
    models = on_one_backbone(2)
    made = zoo.ensemble(models)
    assert len(made.shared()) == 1

    next(models[0].backbones.parameters()).data = torch.zeros_like(next(models[0].backbones.parameters()))

    assert made.shared() == []


def test_backbones_of_which_different_parts_are_kept_run_each_by_itself():
    plain = zoo.build("timm:test_vit", zoo.head("classifier", name="pet", classes=["a", "b"]), weights=None, seed=0)
    tokens = zoo.build(
        "timm:test_vit", zoo.head("attention_pool", name="pet", classes=["a", "b"]), weights=None, seed=0
    )
    x = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        alone = [model(x)["pet"] for model in (plain, tokens)]
    calls = [counted(model) for model in (plain, tokens)]

    with torch.no_grad():
        found = zoo.ensemble([plain, tokens]).member_outputs(x)["pet"]

    assert [len(one) for one in calls] == [1, 1]
    assert torch.equal(found[0], alone[0])
    assert torch.equal(found[1], alone[1])


def test_different_crops_of_one_backbone_are_not_shared(member, pictures):
    models = [member("timm:test_resnet", seed=0), member("timm:test_resnet", seed=0)]
    streams = models[1].spec.streams["main"]
    other = zoo.build(
        "timm:test_resnet?img_size=64", [zoo.HeadSpec.of(h) for h in models[1].spec.heads], weights=None, seed=0
    )

    assert streams.backbone.preprocessing != other.spec.streams["main"].backbone.preprocessing
    assert zoo.ensemble([models[0], other]).shared() == []
    assert len(zoo.ensemble(models).shared()) == 1


def test_in_training_mode_every_member_runs_its_own(on_one_backbone, x):
    models = on_one_backbone(2)
    made = zoo.ensemble(models)
    calls = [counted(model) for model in models]

    made.train()(x)

    assert [len(one) for one in calls] == [1, 1]


@pytest.mark.slow
def test_a_loaded_ensemble_shares_again(on_one_backbone, x, tmp_path):
    made = zoo.ensemble(on_one_backbone(3))
    made.save(tmp_path / "three")

    loaded = zoo.load(tmp_path / "three")

    assert loaded.shared() == made.shared()
    with torch.no_grad():
        assert torch.equal(loaded(x)["pet"], made(x)["pet"])
