"""Prototypes against scikit-learn's nearest centroid, from tensors and through ``zoo.fit``."""

import logging

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid
from torch.nn import functional as F

import zoo
from zoo.contracts.features import Features
from zoo.data import Column, Table, TensorSample
from zoo.errors import ConfigError, DataError
from zoo.spec import HeadSpec
from zoo.testing import check_head
from zoo_heads.prototype import Prototype

CLASSES = ["cat", "cow", "dog"]


def rows(count=30, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(count) % 3
    centres = torch.randn(3, width, generator=generator)
    return centres[target] + torch.randn(count, width, generator=generator), target


def taught(task, vectors, target, parts=4):
    for batch in torch.arange(len(target)).chunk(parts):
        task.learn(Features(pooled=vectors[batch]), target[batch])
    task.learnt()
    return task


# --- against scikit-learn


def test_predictions_are_those_of_the_nearest_centroid(make):
    (vectors, target), (new, _) = rows(), rows(seed=1)
    task = taught(make("prototype", classes=CLASSES), vectors, target)

    logits = task.score(Features(pooled=new))

    theirs = NearestCentroid().fit(vectors.double().numpy(), target.numpy())
    np.testing.assert_allclose(task.prototypes.numpy(), theirs.centroids_, rtol=1e-5, atol=1e-6)
    assert [one.label for one in task.decode(logits)] == [CLASSES[n] for n in theirs.predict(new.double().numpy())]
    distances = ((new.double().numpy()[:, None] - theirs.centroids_) ** 2).sum(axis=2)
    np.testing.assert_allclose(logits.numpy(), -distances, rtol=1e-4, atol=1e-5)


def test_normalized_vectors_have_length_1_before_the_mean_is_taken(make):
    vectors, target = rows()
    task = taught(make("prototype", classes=CLASSES, normalize=True), vectors * 7, target)

    theirs = NearestCentroid().fit(F.normalize(vectors).double().numpy(), target.numpy())
    np.testing.assert_allclose(task.prototypes.numpy(), theirs.centroids_, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("config", "scale"), [({}, 10.0), ({"scale": 4.0}, 4.0)])
def test_cosines_are_taken_to_the_mean_and_scaled(make, config, scale):
    vectors, target = rows()
    task = taught(make("prototype", classes=CLASSES, distance="cosine", **config), vectors, target)

    means = torch.stack([vectors[target == n].mean(dim=0) for n in range(3)])
    expected = scale * F.cosine_similarity(vectors[:, None], means, dim=-1)
    torch.testing.assert_close(task.score(Features(pooled=vectors)), expected)


def test_the_batches_do_not_matter_and_rows_without_a_label_teach_nothing(make):
    vectors, target = rows()
    missing = torch.cat([target, torch.tensor([-100, -100])])
    more = torch.cat([vectors, torch.full((2, 6), 1e6)])

    one = taught(make("prototype", classes=CLASSES), vectors, target, parts=1)
    other = taught(make("prototype", classes=CLASSES), more, missing, parts=7)

    torch.testing.assert_close(one.prototypes, other.prototypes)
    assert one.rows.tolist() == other.rows.tolist() == [10, 10, 10]


def test_each_pass_begins_anew(make):
    vectors, target = rows()
    task = taught(make("prototype", classes=CLASSES), vectors + 5, target)

    taught(task, vectors, target)

    torch.testing.assert_close(task.prototypes, taught(make("prototype", classes=CLASSES), vectors, target).prototypes)


# --- refusals


def test_a_class_without_a_row_is_named(make):
    vectors, target = rows()

    with pytest.raises(DataError, match="needs a training row of each class, and there is none of 'dog'; give one"):
        taught(make("prototype", classes=CLASSES), vectors[target < 2], target[target < 2])


def test_a_head_that_has_learnt_nothing_predicts_nothing(make, features):
    task = make("prototype", classes=CLASSES)
    output = task(features(2))["kind"]

    with pytest.raises(ConfigError, match=r"has not learnt its prototypes yet; show it labelled rows by zoo\.fit"):
        task.decode(output)
    with pytest.raises(ConfigError, match="has not learnt its prototypes yet"):
        task.update(task.metrics(), output, torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({}, r"The head 'kind' \(prototype\) must know its classes"),
        ({"classes": CLASSES, "scale": 2.0}, "scale is of cosines; set distance='cosine'"),
        ({"classes": CLASSES, "distance": "cosine", "scale": 0.0}, "scale must be above 0"),
        ({"classes": CLASSES, "distance": "manhattan"}, "distance"),
        ({"classes": ["a"]}, "classes must be 2 or more"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_sentence(make, config, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make("prototype", **config)


def test_classes_are_taken_from_the_labels(context):
    spec = Prototype.complete(HeadSpec(type="prototype", name="kind"), {"kind": ("b", None, "a")}, context)

    assert spec.config["classes"] == ["a", "b"]


@pytest.mark.parametrize("config", [{}, {"distance": "cosine", "normalize": True}])
def test_prototypes_conform(config):
    check_head({"type": "prototype", "name": "kind", "classes": CLASSES, **config})


# --- in training


def pictures(count=24):
    noise = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    samples = tuple(TensorSample(f"picture {n}", picture + n % 2) for n, picture in enumerate(noise))
    kinds = Column("kind", "text", tuple("ab"[n % 2] for n in range(count)))
    return Table("made up", {"image": samples}, {"kind": kinds}, ("train",) * 16 + ("test",) * 8)


def means_of(model, table):
    """Give the class means of the training rows as the model is now."""
    samples = list(table.inputs["image"])[:16]
    with torch.no_grad():
        vectors = model.features(torch.stack([sample.open() for sample in samples]))["main"].pooled
    return torch.stack([vectors[0::2].mean(dim=0), vectors[1::2].mean(dim=0)])


HEAD = {"type": "prototype", "name": "kind", "classes": ["a", "b"]}


def test_a_model_with_nothing_to_train_learns_its_prototypes_is_measured_and_saved(tmp_path, caplog):
    table = pictures()
    model = zoo.build("timm:test_resnet", HEAD, weights=None, seed=0)

    with caplog.at_level(logging.INFO, "zoo"):
        history = zoo.fit(model, table, method="feature_extraction", device="cpu", validation=0)

    torch.testing.assert_close(model.task("kind").prototypes, means_of(model, table))
    assert history.epochs == []
    assert history.test == zoo.evaluate(model, table, split="test", device="cpu")
    assert "nothing is trained by gradient, no epoch is run" in caplog.text
    again = zoo.load(model.save(tmp_path / "bundle"))
    picture = table.inputs["image"][0].open()
    assert again.predict(picture) == model.predict(picture)


@pytest.mark.slow
def test_prototypes_follow_a_backbone_that_trains_to_its_best_epoch():
    table = pictures()
    model = zoo.build("timm:test_resnet", HEAD, weights=None, seed=0)
    before = means_of(model, table)

    history = zoo.fit(model, table, method="fine_tuning", epochs=2, lr=1e-2, batch_size=8, device="cpu", validation=0)

    assert len(history.epochs) == 2
    torch.testing.assert_close(model.task("kind").prototypes, means_of(model, table))
    assert not torch.allclose(model.task("kind").prototypes, before, atol=1e-3)


@pytest.mark.slow
def test_prototypes_are_learnt_inside_a_combinator_beside_a_head_that_trains():
    table = pictures()
    other = {"type": "classifier", "name": "other", "classes": ["a", "b"], "target": "kind"}
    model = zoo.build("timm:test_resnet", zoo.head("multi_task", heads=[HEAD, other]), weights=None, seed=0)

    history = zoo.fit(model, table, method="feature_extraction", epochs=1, device="cpu", validation=0)

    torch.testing.assert_close(model.task("kind").prototypes, means_of(model, table))
    assert len(history.epochs) == 1


@pytest.mark.slow
def test_prototypes_in_a_fusion_are_means_of_what_is_fused():
    table = pictures()
    inner = {"type": "prototype", "classes": ["a", "b"]}
    head = {"type": "feature_fusion", "name": "kind", "head": inner}
    backbones = {"one": "timm:test_resnet", "two": "timm:test_vit?img_size=32"}
    model = zoo.build(backbones, head, weights=None, seed=0)
    rows = Table("made up", dict.fromkeys(backbones, table.inputs["image"]), table.columns, table.split)

    zoo.fit(model, rows, method="feature_extraction", device="cpu", validation=0)

    samples = torch.stack([sample.open() for sample in table.inputs["image"][:16]])
    with torch.no_grad():
        found = model.features(dict.fromkeys(backbones, samples))
    fused = torch.cat([found["one"].pooled, found["two"].pooled], dim=1)
    means = torch.stack([fused[0::2].mean(dim=0), fused[1::2].mean(dim=0)])
    torch.testing.assert_close(model.task("kind").prototypes, means)


def test_training_rows_that_lack_a_class_stop_training_before_it_begins():
    table = pictures()
    model = zoo.build("timm:test_resnet", {**HEAD, "classes": ["a", "b", "c"]}, weights=None, seed=0)
    before = {key: value.clone() for key, value in model.state_dict().items()}

    with pytest.raises(DataError, match="there is none of 'c'"):
        zoo.fit(model, table, epochs=1, device="cpu", validation=0)

    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
