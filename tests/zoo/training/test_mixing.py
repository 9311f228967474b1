"""Mixup and CutMix: mixed as torchvision mixes, with the loss of the mixed target; refused where it means nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.transforms import v2

import zoo
from zoo.errors import ConfigError
from zoo.training.rows.mixing import Mixing
from zoo.training.step import Step

RUN = {"epochs": 2, "batch_size": 8, "device": "cpu"}


def batch(count=6):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_batches_are_mixed_as_torchvision_mixes_them(kind):
    images, labels = batch(), torch.tensor([0, 1, 2, 0, 1, 2])
    torch.manual_seed(5)
    mixed, share = Mixing(**{kind: 0.7}).mixed({"image": images})
    torch.manual_seed(5)
    theirs, soft = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[kind](alpha=0.7, num_classes=3)(images, labels)

    assert torch.equal(mixed["image"], theirs)
    assert soft[0].tolist() == pytest.approx([share, 0, 1 - share])
    assert 0 < share < 1


def test_with_both_each_batch_has_one_of_them():
    torch.manual_seed(0)
    images, cut = batch(), 0
    for _ in range(60):
        mixed, share = Mixing(1.0, 1.0).mixed({"image": images})
        blended = torch.allclose(mixed["image"], share * images + (1 - share) * images.roll(1, 0), atol=1e-6)
        cut += not blended

    assert 15 <= cut <= 45


@pytest.mark.parametrize("multi", [False, True])
def test_the_loss_is_that_of_the_mixed_target(model, multi):
    """Of cross-entropy with soft targets, in closed form."""
    one = model(multi_label=multi)
    images, objective = batch(), Step(one.eval(), mixing=Mixing(0.5))
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    hard = torch.nn.functional.one_hot(labels, 2).float()
    torch.manual_seed(1)
    mixed, share = Mixing(0.5).mixed({"image": images})
    objective.training = True
    torch.manual_seed(1)
    with torch.no_grad():
        given = objective({"kind": hard if multi else labels}, {"image": images})["loss"]
        logits = one(mixed["image"])["kind"]
    soft = share * hard + (1 - share) * hard.roll(1, 0)
    functional = torch.nn.functional
    wanted = (
        functional.binary_cross_entropy_with_logits(logits, soft) if multi else functional.cross_entropy(logits, soft)
    )

    assert share < 1
    assert float(given) == pytest.approx(float(wanted), rel=1e-5)


def test_rows_without_a_label_count_for_nothing_and_the_others_for_their_share(model):
    one = model()
    images, labels = batch(), torch.tensor([0, -100, 1, -100, -100, 1])
    objective = Step(one.eval(), mixing=Mixing(0.5))
    objective.training = True
    torch.manual_seed(2)
    mixed, share = Mixing(0.5).mixed({"image": images})
    torch.manual_seed(2)
    with torch.no_grad():
        given = objective({"kind": labels}, {"image": images})["loss"]
        logs = one(mixed["image"])["kind"].log_softmax(1)
    own = [-float(logs[n, label]) for n, label in enumerate(labels.tolist()) if label >= 0]
    other = [-float(logs[n, label]) for n, label in enumerate(labels.roll(1).tolist()) if label >= 0]

    assert float(given) == pytest.approx(share * sum(own) / 3 + (1 - share) * sum(other) / 3, rel=1e-5)


def test_nothing_is_mixed_in_evaluation(model):
    one = model()
    objective = Step(one, mixing=Mixing(1.0, 1.0)).eval()
    targets, images = {"kind": torch.tensor([0, 1, 1, 0, 1, 0])}, {"image": batch()}
    with torch.no_grad():
        assert torch.equal(objective(targets, images)["loss"], Step(one).eval()(targets, images)["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["feature_extraction", "fine_tuning"])
def test_a_run_is_mixed_learns_and_is_the_same_for_equal_seeds(model, table, state, method):
    runs = []
    for mixing in ({"mixup": 0.3, "cutmix": 1.0}, {"mixup": 0.3, "cutmix": 1.0}, {}):
        one = model()
        history = zoo.fit(one, table(), method=method, lr=0.01, **mixing, **RUN)
        runs.append((state(one), history))
    first, second, plain = (weights for weights, _ in runs)

    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], plain[key]) for key in first)
    assert (runs[0][1].settings["mixup"], runs[0][1].settings["cutmix"]) == (0.3, 1.0)
    assert not runs[0][1].cached_features
    assert runs[2][1].cached_features is (method == "feature_extraction")
    assert all(math.isfinite(epoch.train_loss) for epoch in runs[0][1].epochs)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@pytest.mark.parametrize(
    ("head", "words"),
    [
        ({"type": "regression", "name": "age"}, r"the head 'age' \(regression\) learns others"),
        ({"type": "segmentation", "name": "map", "classes": ["a", "b"]}, r"the head 'map' \(segmentation\)"),
    ],
)
def test_a_head_that_cannot_learn_from_mixtures_is_named_before_the_data_is_read(model, kind, head, words):
    with pytest.raises(ConfigError, match=words):
        zoo.fit(model(head), "no such folder", **{kind: 0.5})


def test_a_stream_that_reads_no_pictures_is_named():
    head = zoo.head("classifier", name="kind", classes=["a", "b"])
    bert = "hf:bert?hidden_size=32&num_hidden_layers=2&num_attention_heads=2&intermediate_size=64&vocab_size=99"
    with pytest.raises(ConfigError, match="mixup mixes pictures, and the stream 'main' reads text"):
        zoo.fit(zoo.build(bert, head, weights=None), "no such folder", mixup=0.5)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), True, "0.2"])
@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_parameter_that_is_no_number_of_0_or_more_is_refused(model, kind, value):
    with pytest.raises(ConfigError, match=f"{kind} must be 0 or more and finite"):
        zoo.fit(model(), "no such folder", **{kind: value})


def test_what_learns_from_kept_features_is_not_mixed(model):
    with pytest.raises(ConfigError, match="learn from kept features"):
        zoo.fit(model(), "no such folder", mixup=0.2, augmentation="light", cached_views=2)
