"""Embeddings: losses against their formulas in numpy, retrieval against torchmetrics."""

import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchmetrics.retrieval import RetrievalMAP, RetrievalPrecision

from zoo.errors import ConfigError, DataError
from zoo.spec import HeadSpec
from zoo.testing import check_head
from zoo_heads.embedding import Embedding
from zoo_heads.losses import arcface, batch_hard_triplet

CLASSES = ["cat", "cow", "dog"]


def unit(rows, width=4, seed=0):
    drawn = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(drawn, dim=-1)


# --- ArcFace


@pytest.mark.parametrize("margin", [0.0, 0.5, 1.1])
def test_arcface_is_the_cross_entropy_with_the_margin_added_to_the_true_angle(margin):
    given, prototypes, target = unit(6), 3 * unit(3, seed=1), np.array([0, 1, 2, 2, 1, 0])

    loss = arcface(given, prototypes, torch.tensor(target), margin=margin, scale=20.0)

    angles = np.arccos((given @ F.normalize(prototypes, dim=-1).T).numpy())
    assert angles[np.arange(6), target].max() + margin < math.pi
    logits = 20 * np.cos(angles + margin * np.eye(3)[target])
    expected = (np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), target]).mean()
    assert loss.item() == pytest.approx(expected)


def test_beyond_a_half_turn_the_true_score_goes_on_falling():
    angles = torch.linspace(0.05, math.pi - 0.05, 200, dtype=torch.float64)
    given = torch.stack([angles.cos(), angles.sin()], dim=1)
    prototypes = torch.tensor([[1.0, 0.0], [0.0, 1e-30]], dtype=torch.float64)
    target = torch.zeros(1, dtype=torch.int64)

    # against a class whose cosine is known, the loss gives the true score back
    scores = []
    for one in given:
        loss = arcface(one[None], prototypes, target, margin=0.5, scale=1.0).item()
        other = (one @ F.normalize(prototypes, dim=-1)[1]).item()
        scores.append(other - math.log(math.expm1(loss)))
    scores = np.array(scores)

    inside = angles.numpy() + 0.5 < math.pi
    np.testing.assert_allclose(scores[inside], np.cos(angles.numpy()[inside] + 0.5), atol=1e-9)
    beyond = np.cos(angles.numpy()[~inside]) - 0.5 * math.sin(0.5)
    np.testing.assert_allclose(scores[~inside], beyond, atol=1e-9)
    assert (np.diff(scores) < 0).all()


def test_arcface_has_finite_gradients_where_a_sample_is_its_prototype():
    given = torch.tensor([[1.0, 0.0]], requires_grad=True)

    arcface(given, torch.eye(2), torch.tensor([0]), margin=0.5, scale=64.0).backward()

    assert given.grad.isfinite().all()


# --- triplets


def hardest(vectors, classes):
    """Give the farthest positive and the nearest negative of each anchor that has both."""
    found = []
    for one, kind in zip(vectors, classes, strict=True):
        distances = np.linalg.norm(vectors - one, axis=1)
        positive = [d for d, k, v in zip(distances, classes, vectors, strict=True) if k == kind and v is not one]
        negative = [d for d, k in zip(distances, classes, strict=True) if k != kind]
        same = [i for i, k in enumerate(classes) if k == kind]
        if len(same) > 1 and negative:
            found.append((max(positive), min(negative)))
    return np.array(found)


@pytest.mark.parametrize("margin", [0.0, 0.3, None])
def test_the_triplet_loss_takes_the_hardest_positive_and_negative_of_each_anchor(margin):
    vectors, classes = unit(9), [0, 0, 0, 1, 1, 2, 2, 2, 3]  # the last has no positive

    loss = batch_hard_triplet(vectors, torch.tensor(classes), margin=margin)

    positive, negative = hardest(vectors.numpy(), classes).T
    apart = positive - negative
    each = np.log1p(np.exp(apart)) if margin is None else np.maximum(0, margin + apart)
    assert len(each) == 8
    assert loss.item() == pytest.approx(each.mean())


@pytest.mark.parametrize("labels", [["cat", "cow", "dog", None], ["cat", "cat", "cat", "cat"], [None] * 4])
def test_a_batch_without_a_triplet_gives_a_connected_zero(make, features, labels):
    task = make("embedding", loss="triplet")

    loss = task.loss(task(features(4))["kind"], task.encode(labels))
    loss.backward()

    assert loss.item() == 0
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in task.parameters())


def test_arcface_without_any_label_reaches_the_prototypes_too(make, features):
    task = make("embedding", classes=CLASSES)
    outputs = task(features(2))

    for loss in (task.loss(outputs["kind"], task.encode([None, None])), task.losses(outputs, {})["kind"]):
        task.zero_grad()
        loss.backward(retain_graph=True)
        assert loss.item() == 0
        assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in task.parameters())


@pytest.mark.parametrize(
    ("config", "margin", "scale"),
    [({}, 0.5, 64.0), ({"margin": 0.2, "scale": 10.0}, 0.2, 10.0), ({"margin": 0.0}, 0.0, 64.0)],
)
def test_the_head_uses_its_margin_and_scale(make, features, config, margin, scale):
    task = make("embedding", classes=CLASSES, **config)
    output, target = task(features(3))["kind"], task.encode(["dog", None, "cat"])

    expected = arcface(output[[0, 2]], task.prototypes, torch.tensor([2, 0]), margin=margin, scale=scale)
    torch.testing.assert_close(task.loss(output, target), expected)


@pytest.mark.parametrize(("config", "margin"), [({}, 0.2), ({"margin": 0.7}, 0.7), ({"margin": "soft"}, None)])
def test_the_head_uses_its_margin_for_triplets(make, features, config, margin):
    task = make("embedding", loss="triplet", **config)
    output = task(features(6))["kind"]

    expected = batch_hard_triplet(output[:5], torch.tensor([0, 0, 1, 1, 0]), margin=margin)
    torch.testing.assert_close(task.loss(output, task.encode(["a", "a", "b", "b", "a", None])), expected)


# --- retrieval


def test_retrieval_is_that_of_torchmetrics_with_each_row_a_query_among_the_others(make):
    task, vectors = make("embedding", loss="triplet"), unit(40, seed=2).float()
    classes = torch.randint(0, 8, (40,), generator=torch.Generator().manual_seed(3))
    classes[0] = 99  # alone: it has nothing to find
    target = classes.clone()
    target[5] = -100
    metrics = task.metrics()
    for rows in torch.arange(40).chunk(3):
        task.update(metrics, vectors[rows], target[rows])
    found = {name: float(value) for name, value in metrics.compute().items()}

    rows = [row for row in range(40) if row != 5]
    queries, preds, right = [], [], []
    for query in rows:
        for other in rows:
            if other != query:
                queries.append(query)
                preds.append(float(vectors[query] @ vectors[other]))
                right.append(bool(classes[query] == classes[other]))
    above = torch.tensor(preds) + 2  # torchmetrics pads short queries with zeros, above which all must be
    told = {"preds": above, "target": torch.tensor(right), "indexes": torch.tensor(queries)}
    mean = RetrievalMAP(empty_target_action="skip")(**told)
    nearest = RetrievalPrecision(top_k=1, empty_target_action="skip")(**told)
    assert found == {"map": pytest.approx(float(mean)), "recall_at_1": pytest.approx(float(nearest))}


def test_many_queries_are_measured_like_few(make):
    task, vectors = make("embedding", loss="triplet"), unit(1300, width=3).float()
    target = torch.arange(1300) % 5
    metrics = task.metrics()
    task.update(metrics, vectors, target)

    near = vectors @ vectors.T
    near.fill_diagonal_(-2)
    expected = (target[near.argmax(dim=1)] == target).float().mean()
    assert float(metrics.compute()["recall_at_1"]) == pytest.approx(float(expected))


@pytest.mark.parametrize("rows", [1, 3])
def test_rows_without_another_of_their_class_measure_nothing(make, rows):
    task = make("embedding", loss="triplet")
    metrics = task.metrics()
    task.update(metrics, unit(rows).float(), torch.arange(rows))

    assert {name: float(value) for name, value in metrics.compute().items()} == {"map": 0, "recall_at_1": 0}


# --- output


def test_embeddings_have_length_1(make, features):
    output = make("embedding", classes=CLASSES, dim=5, hidden=7, norm=True)(features(4))["kind"]

    assert output.shape == (4, 5)
    torch.testing.assert_close(output.norm(dim=1), torch.ones(4))


def test_a_prediction_with_arcface_names_the_nearest_prototype_and_its_cosine(make):
    task = make("embedding", classes=CLASSES, dim=2)
    with torch.no_grad():
        task.prototypes.copy_(torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]))

    first, second = task.decode(torch.tensor([[0.6, 0.8], [-1.0, 0.0]]))

    assert (first.label, second.label) == ("cow", "dog")
    assert first.cosine == pytest.approx(0.8)
    assert json.loads(json.dumps(second.as_json())) == {"label": "dog", "cosine": 1.0, "embedding": [-1.0, 0.0]}


def test_a_prediction_with_triplets_is_the_vector_alone(make):
    (one,) = make("embedding", loss="triplet", dim=2).decode(torch.tensor([[0.0, 1.0]]))

    assert one.as_json() == {"embedding": [0.0, 1.0]}


# --- labels


def test_without_classes_a_triplet_head_takes_any_label_by_its_text(make):
    task = make("embedding", loss="triplet")

    one, two, again, number, text, missing = task.encode(["a", "b", "a", 7, "7", None]).tolist()

    assert one == again != two
    assert number == text
    assert missing == -100
    assert min(one, two, number) >= 0


def test_classes_are_filled_in_for_arcface_only(context):
    labels = {"kind": ("b", "a", None)}

    angular = Embedding.complete(HeadSpec(type="embedding", name="kind"), labels, context)
    triplet = HeadSpec(type="embedding", name="kind", config={"loss": "triplet"})

    assert angular.config["classes"] == ["a", "b"]
    assert Embedding.complete(triplet, labels, context) is triplet


@pytest.mark.parametrize("loss", ["arcface", "triplet"])
def test_labels_that_are_none_are_refused(make, loss):
    task = make("embedding", loss=loss, classes=CLASSES)

    with pytest.raises(DataError, match="takes one label a sample"):
        task.encode([("cat", "dog")])
    with pytest.raises(DataError, match="knows no class 'bird'"):
        task.encode(["bird"])


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({}, r"The head 'kind' \(embedding\) must know its classes"),
        ({"classes": CLASSES, "dim": 0}, "dim must be 1 or more"),
        ({"classes": CLASSES, "margin": 1.6}, r"margin of ArcFace must be an angle in \[0, π/2\), got 1.6"),
        ({"classes": CLASSES, "margin": -0.1}, "margin of ArcFace must be an angle"),
        ({"classes": CLASSES, "margin": "soft"}, "margin of ArcFace must be an angle"),
        ({"classes": CLASSES, "scale": 0.0}, "scale must be above 0"),
        ({"loss": "triplet", "scale": 1.0}, "scale is ArcFace's"),
        ({"loss": "triplet", "margin": -1.0}, "margin must be 0 or more, or 'soft'"),
        ({"loss": "triplet", "margin": "hard"}, "margin"),
        ({"loss": "contrastive"}, "loss"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_sentence(make, config, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        make("embedding", **config)

    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        {"classes": CLASSES, "dim": 8},
        {"loss": "triplet", "dim": 8, "norm": True},
        {"loss": "triplet", "dim": 8, "margin": "soft", "hidden": 8, "classes": CLASSES},
    ],
    ids=["arcface", "triplet", "soft margin"],
)
def test_embeddings_conform(config):
    check_head({"type": "embedding", "name": "who", **config})
