"""A head takes new classes and keeps what it knows of the old ones."""

import pytest
import torch

import zoo
from zoo.errors import CapabilityError, ConfigError, UnknownName


def model(kind="classifier", backbone="timm:test_resnet", **config):
    return zoo.build(backbone, zoo.head(kind, name="kind", classes=["a", "b"], **config), weights=None, seed=0)


def state(built):
    return {name: tensor.clone() for name, tensor in built.state_dict().items()}


@pytest.mark.parametrize(
    "config",
    [{}, {"norm": True, "hidden": 8, "dropout": 0.1}, {"cosine": True}, {"class_weights": "balanced"}],
)
def test_old_classes_keep_their_weights_bit_for_bit(config):
    built = model(**config)
    before, inputs = state(built), torch.randn(2, 3, 32, 32)
    old = built.eval()(inputs)["kind"]

    assert built.grow("kind", ["c", "d"]) is built

    after = state(built)
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name][tuple(map(slice, tensor.shape))], tensor)
    torch.testing.assert_close(built(inputs)["kind"][:, :2], old, rtol=1e-5, atol=1e-6)  # a wider product, summed anew
    assert built.task("kind").config.classes == ("a", "b", "c", "d")
    assert built.predict(inputs[:1])[0]["kind"].probabilities.keys() == set("abcd")


def test_an_attention_pool_grows_as_a_classifier_does():
    built = model("attention_pool", "timm:test_vit")
    size = built.spec.streams["main"].backbone.inputs[0].size
    inputs = torch.randn(2, 3, *size)
    old = built.eval()(inputs)["kind"]

    torch.testing.assert_close(built.grow("kind", ["c"])(inputs)["kind"][:, :2], old, rtol=1e-5, atol=1e-6)


def test_the_new_rows_are_drawn_by_the_seed_alone():
    torch.manual_seed(1)
    one = model().grow("kind", ["c"], seed=3).state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(1)
    model()
    other, third = model().grow("kind", ["c"], seed=3).state_dict(), model().grow("kind", ["c"], seed=4).state_dict()

    weight = "heads.kind.layers.0.weight"
    assert torch.equal(one[weight], other[weight])
    assert not torch.equal(one[weight], third[weight])
    assert torch.equal(torch.rand(1), drawn)


def test_a_frozen_head_stays_frozen_and_keeps_its_dtype():
    built = model().to(torch.float64).freeze("heads.kind").grow("kind", ["c"])

    assert not any(one.requires_grad for one in built.heads["kind"].parameters())
    assert {one.dtype for one in built.heads["kind"].parameters()} == {torch.float64}


def test_a_grown_model_is_rebuilt_from_its_bundle(tmp_path):
    built = model().grow("kind", ["c"])
    again = zoo.load(zoo.save(built, tmp_path / "grown", probe=False))

    assert again.spec == built.spec
    assert all(torch.equal(one, again.state_dict()[name]) for name, one in built.state_dict().items())


@pytest.mark.parametrize(
    ("head", "classes", "error", "said"),
    [
        ("kinds", ["c"], UnknownName, "no head 'kinds'; it has kind"),
        ("kind", ["a"], ConfigError, "classes must differ, got 'a' twice"),
        ("kind", [], ConfigError, "one or more new classes"),
        ("kind", "cd", ConfigError, "one or more new classes"),
    ],
)
def test_what_cannot_grow_is_said(head, classes, error, said):
    with pytest.raises(error, match=said):
        model().grow(head, classes)


def test_weights_a_class_and_heads_inside_others_are_refused():
    with pytest.raises(ConfigError, match="has class_weights for its 2 classes"):
        model(class_weights=(1.0, 2.0)).grow("kind", ["c"])
    inner = [{"type": "classifier", "name": name, "classes": ["a", "b"]} for name in ("one", "two")]
    built = zoo.build("timm:test_resnet", zoo.head("multi_task", name="both", heads=inner), weights=None, seed=0)
    with pytest.raises(CapabilityError, match="'one' is inside the head 'both'"):
        built.grow("one", ["c"])
    with pytest.raises(CapabilityError, match=r"'both' \(multi_task\) cannot take new classes"):
        built.grow("both", ["c"])
