"""Kept features belong to a backbone, not to a model: whichever model has it as a stream takes what is there."""

from collections import Counter

import pytest
import torch

import zoo
from zoo.data import TensorSample
from zoo.training.features.passes import WholePass
from zoo.training.features.store import FeatureStore

CPU = torch.device("cpu")
RESNET, VIT = "timm:test_resnet?img_size=32", "timm:test_vit2?img_size=32"
KIND = {"type": "classifier", "classes": ["a", "b"]}
FUSED = zoo.head("feature_fusion", name="kind", head=KIND)
PAIR = zoo.head("two_stream", name="kind", head=KIND, missing="mask")


@pytest.fixture
def passes(monkeypatch):
    """Count the samples that each architecture's own module sees."""
    seen = Counter()
    extract = zoo.Backbone.forward

    def spy(self, inputs, *more, **given):
        batch = inputs if isinstance(inputs, torch.Tensor) else next(iter(inputs.values()))
        seen[self.spec.architecture] += len(batch)
        return extract(self, inputs, *more, **given)

    monkeypatch.setattr(zoo.Backbone, "forward", spy)
    return seen


def alone(reference):
    return zoo.build(reference, {**KIND, "name": "kind"}, weights=None, seed=0)


BOTH = {"a": "image", "b": "image"}


def build(streams, head, inputs, **more):
    """Build a model whose backbones have the weights that each has alone."""
    model = zoo.build(streams, head, weights=None, seed=1, inputs=inputs, **more)
    for stream, reference in streams.items():
        model.backbones[stream].load_state_dict(alone(reference).backbones["main"].state_dict())
    return model


def fused():
    return build({"a": RESNET, "b": VIT}, FUSED, BOTH)


def rows(samples):
    return [{"image": sample} for sample in samples]


def sized(seed, side):
    return torch.randn(3, side, side, generator=torch.Generator().manual_seed(seed))


def pictures(count):
    return [TensorSample(str(n), sized(n, 32)) for n in range(count)]


def get(model, samples, folder):
    return FeatureStore(model, folder).get(samples, device=CPU)


@pytest.mark.slow
def test_a_fusion_takes_what_each_of_its_backbones_has_kept_alone(tmp_path, passes):
    one = fused()
    assert one.backbones["a"].spec.inputs[0].size == one.backbones["b"].spec.inputs[0].size
    taken = rows(pictures(6))
    for reference in (RESNET, VIT):
        get(alone(reference), taken, tmp_path)
    passes.clear()

    found = get(one, taken, tmp_path).batch(range(6))

    assert not passes
    with torch.no_grad():
        live = one.features(torch.stack([row["image"].open() for row in taken]))
    for stream in ("a", "b"):
        torch.testing.assert_close(found[f"{stream}/pooled"], live[stream].pooled, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_only_the_backbone_and_the_rows_that_are_missing_run(tmp_path, passes):
    get(alone(RESNET), rows(pictures(4)), tmp_path)
    passes.clear()

    get(fused(), rows(pictures(6)), tmp_path)

    assert passes == {"test_resnet": 2, "test_vit2": 6}


@pytest.mark.slow
def test_what_a_fusion_has_kept_serves_each_of_its_backbones_alone(tmp_path, passes):
    get(fused(), rows(pictures(3)), tmp_path)
    passes.clear()
    get(alone(VIT), rows(pictures(3)), tmp_path)

    assert not passes


def test_streams_of_one_module_on_one_input_run_and_are_kept_once(tmp_path, passes):
    model = build({"a": RESNET}, FUSED, BOTH, share={"b": "a"})
    found = get(model, rows(pictures(3)), tmp_path).batch(range(3))

    assert passes == {"test_resnet": 3}
    assert torch.equal(found["a/pooled"], found["b/pooled"])
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1


def test_one_module_on_two_inputs_gives_each_row_the_features_of_its_own_pictures(tmp_path, passes):
    model = build({"a": RESNET}, PAIR, {"a": "top", "b": "side"}, share={"b": "a"})
    given = pictures(4)
    taken = [{"top": given[0], "side": given[1]}, {"top": given[1], "side": None}, {"top": given[2], "side": given[3]}]
    found = get(model, taken, tmp_path).batch([2, 0, 1])
    again = get(model, taken[:2], tmp_path).batch([0])
    single = get(alone(RESNET), rows(given), tmp_path).batch(range(4))["main/pooled"]

    torch.testing.assert_close(found["a/pooled"], single[[2, 0, 1]])
    torch.testing.assert_close(found["b/pooled"][:2], single[[3, 1]])
    assert found["b/present"].tolist() == [True, True, False]
    assert found["a/present"].tolist() == [True, True, True]
    assert torch.equal(again["b/pooled"], found["b/pooled"][1:2])


@pytest.mark.slow
def test_features_depend_on_the_weights_and_not_on_the_name_of_the_stream():
    def key(model, stream):
        return WholePass(model).key(stream)

    one, other = alone(RESNET), fused()
    assert key(one, "main") == key(other, "a")
    assert key(other, "a") != key(other, "b")
    next(one.backbones["main"].parameters()).data.mul_(2)
    assert key(one, "main") != key(other, "a")
