"""Samples that lack a stream, in a two-stream head: the others decide, and nothing is made up."""

import json

import pytest
import torch
from torch import nn

from zoo.errors import DataError
from zoo_heads.late_fusion import AbsentPrediction

KIND = {"type": "classifier", "classes": ["x", "y", "z"]}
NAMES = ("a", "b", "c")


@pytest.fixture
def fuse(combine):
    """Build a head on streams, by default a classifier on all three."""
    return lambda *names, head=KIND, **config: combine("two_stream", *(names or NAMES), head=head, **config)


def own(head, features):
    """Score each stream with its own linear layer, by hand."""
    return {
        name: features[name].pooled @ part.layers[0].weight.T + part.layers[0].bias for name, part in head.own.items()
    }


# --- samples that lack a stream


@pytest.mark.parametrize("fusion", ["mean", "weighted", "learnt"])
def test_a_sample_that_lacks_a_stream_is_scored_by_the_others(fuse, draw_streams, fusion, lacking):
    config = {"weights": {"a": 1.0, "b": 2.0, "c": 5.0}} if fusion == "weighted" else {}
    head = fuse(fusion=fusion, missing="mask", **config)
    weights = torch.tensor([1.0, 2.0, 5.0]) if config else torch.ones(3)
    features = lacking(draw_streams(4, *NAMES), b=[1, 2], c=[2, 3], a=[3])

    outputs = head(features)

    assert head.may_miss() == {"a", "b", "c"}
    alone = own(head, features)
    there = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 0, 0], [0, 1, 0]])
    for row in range(4):
        shares = weights * there[row] / (weights * there[row]).sum()
        expected = sum(
            share * alone[name][row].softmax(dim=0) for name, share in zip(NAMES, shares, strict=True) if share
        )
        torch.testing.assert_close(outputs["kind"][row].softmax(dim=0), expected)


@pytest.mark.parametrize("of", ["probabilities", "logits"])
def test_a_sample_without_any_stream_still_gives_finite_numbers_and_gradients(fuse, draw_streams, of, lacking):
    head = fuse("a", "b", missing="mask", of=of)
    features = lacking(draw_streams(3, "a", "b"), a=[1], b=[1, 2])
    outputs = head(features)
    target = head.tasks()["kind"].encode(["x", "y", "z"])

    sum(head.losses(outputs, dict.fromkeys(head.tasks(), target)).values()).backward()

    assert torch.isfinite(outputs["kind"]).all()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())


def test_a_stream_that_a_sample_lacks_adds_nothing_to_its_loss_and_metrics_and_tells_so(fuse, draw_streams, lacking):
    head = fuse("a", "b", missing="mask", stream_weight=1.0)
    features = lacking(draw_streams(4, "a", "b"), b=[0, 3])
    task, labels = head.tasks()["kind-b"], ["x", "y", None, "z"]
    target = task.encode(labels)

    outputs = head(features)
    losses = head.losses(outputs, dict.fromkeys(head.tasks(), target))
    metrics = task.metrics()
    task.update(metrics, outputs["kind-b"], target)
    told = task.decode(outputs["kind-b"])

    scores = own(head, features)["b"]
    torch.testing.assert_close(losses["kind-b"], nn.functional.cross_entropy(scores[[1]], target[[1]]))
    assert metrics.compute()["accuracy"] == float(scores[1].argmax() == target[1])
    assert [isinstance(one, AbsentPrediction) for one in told] == [True, False, False, True]
    assert json.loads(json.dumps(told[0].as_json())) == {"missing": "kind-b"}
    assert told[1].label == KIND["classes"][scores[1].argmax()]


def test_a_batch_in_which_no_sample_has_a_stream_gives_that_stream_gradients_of_zero(fuse, draw_streams, lacking):
    head = fuse("a", "b", missing="mask", stream_weight=1.0)
    features = lacking(draw_streams(2, "a", "b"), b=[0, 1])
    target = head.tasks()["kind"].encode(["x", "y"])

    losses = head.losses(head(features), dict.fromkeys(head.tasks(), target))
    sum(losses.values()).backward()

    assert losses["kind-b"].item() == 0
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in head.own["b"].parameters())
    assert all(p.grad.any() for p in head.own["a"].parameters())


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_mid_fusion_leaves_out_what_a_sample_lacks(fuse, draw_streams, fusion, lacking):
    head = fuse(fusion=fusion, missing="mask")
    features = lacking(draw_streams(3, *NAMES), a=[0], b=[0, 1], c=[1])

    output = head(features)["kind"]

    there = torch.tensor([[0, 0, 1], [1, 0, 0], [1, 1, 1]], dtype=torch.bool)
    layer = head.inner.layers[0]
    for row in range(3):
        parts = []
        for i, name in enumerate(NAMES):
            x = features[name].pooled[row]
            if fusion == "concat":
                parts.append(x if there[row, i] else torch.zeros_like(x))
            elif there[row, i]:
                project = head.fuser.project[name]
                parts.append((x @ project.weight.T + project.bias) * 3 / there[row].sum())
        fused = torch.cat(parts) if fusion == "concat" else sum(parts)
        torch.testing.assert_close(output[row], fused @ layer.weight.T + layer.bias)


def test_without_mask_a_sample_that_lacks_a_stream_is_refused(fuse, draw_streams, lacking):
    head = fuse("a", "b")
    features = draw_streams(2, "a", "b")
    features["b"].present = torch.tensor([True, True])
    whole = head(features)["kind"]

    assert head.may_miss() == frozenset()
    assert torch.isfinite(whole).all()
    with pytest.raises(DataError, match=r"'kind' \(two_stream\) got a sample without 'b'; set missing='mask'"):
        head(lacking(features, b=[1]))


def test_prototypes_of_a_stream_are_learnt_from_the_samples_that_have_it(fuse, draw_streams, lacking):
    head = fuse("a", "b", head={"type": "prototype", "classes": ["x", "y"]}, missing="mask")
    features = lacking(draw_streams(4, "a", "b"), b=[0])
    task = head.tasks()["kind-b"]
    seen = []
    task.register_forward_pre_hook(lambda _, given: seen.append(given[0][task.stream]))

    head(features)
    task.learn(seen[0], task.encode(["x", "x", "y", "y"]))
    task.learnt()

    assert task.learns_features
    pooled = nn.functional.normalize(features["b"].pooled, dim=-1) if task.config.normalize else features["b"].pooled
    torch.testing.assert_close(head.own["b"].get_buffer("prototypes")[0], pooled[1])
    torch.testing.assert_close(head.own["b"].get_buffer("prototypes")[1], pooled[2:].mean(dim=0))
