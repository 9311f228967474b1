"""The cache of Tip-Adapter by the paper's formula, with numpy, alone and beside zero-shot logits."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import zoo
from zoo.contracts.features import Features
from zoo.data import Column, Table, TensorSample
from zoo.errors import CapabilityError, ConfigError, DataError, ShapeError
from zoo.testing import check_head

CLASSES = ["cat", "cow", "dog"]


def rows(count=12, width=6, seed=0):
    target = torch.arange(count) % 3
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), target


def taught(task, vectors, target, *, parts=4, kind="pooled"):
    for batch in torch.arange(len(target)).chunk(parts):
        task.learn(Features(**{kind: vectors[batch]}), target[batch])
    task.learnt()
    return task


def unit(vectors):
    vectors = vectors.double().numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def cached(new, vectors, target, *, alpha, beta):
    """Equation 4 of the paper: affinities with the keys, times the one-hot labels."""
    affinities = np.exp(-beta * (1 - unit(new) @ unit(vectors).T))
    return alpha * affinities @ np.eye(3)[target.numpy()]


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 5.5), (2.5, 1.3)])
def test_the_cache_votes_by_the_papers_formula(make, alpha, beta):
    (vectors, target), (new, _) = rows(), rows(seed=1)

    task = taught(make("tip_adapter", classes=CLASSES, shots=4, alpha=alpha, beta=beta), vectors, target)

    expected = cached(new, vectors, target, alpha=alpha, beta=beta)
    np.testing.assert_allclose(task.score(Features(pooled=new)).numpy(), expected, rtol=1e-5)
    assert [one.label for one in task.decode(task.score(Features(pooled=new)))] == [
        CLASSES[n] for n in expected.argmax(axis=1)
    ]


def test_only_the_first_rows_of_each_class_are_kept_and_room_that_is_left_votes_for_nothing(make):
    (vectors, target), (new, _) = rows(), rows(seed=1)
    full = taught(make("tip_adapter", classes=CLASSES, shots=2), vectors, target)
    roomy = taught(make("tip_adapter", classes=CLASSES, shots=9), vectors[:6], target[:6])

    expected = cached(new, vectors[:6], target[:6], alpha=1.0, beta=5.5)
    for task in (full, roomy):
        np.testing.assert_allclose(task.score(Features(pooled=new)).numpy(), expected, rtol=1e-5)
        assert task.rows.tolist() == [2, 2, 2]


def test_each_pass_begins_anew_and_rows_without_a_label_teach_nothing(make):
    vectors, target = rows()
    task = taught(make("tip_adapter", classes=CLASSES, shots=8), vectors + 5, target)
    taught(task, torch.cat([vectors[:1], vectors]), torch.cat([torch.tensor([-100]), target]), parts=2)

    fresh = taught(make("tip_adapter", classes=CLASSES, shots=8), vectors, target)
    assert torch.equal(task.keys, fresh.keys)


def test_beside_zero_shot_logits_the_cache_is_a_residual(make):
    (vectors, target), (new, _) = rows(), rows(seed=1)
    words = torch.randn(3, 6, generator=torch.Generator().manual_seed(7))
    task = make("tip_adapter", classes=CLASSES, dim=6, scale=20.0, alpha=1.5)
    task.set_classes(words)

    taught(task, vectors[target < 2], target[target < 2], kind="embed")  # a class may be told in words alone

    expected = cached(new, vectors[target < 2], target[target < 2], alpha=1.5, beta=5.5)
    expected = expected + 20 * unit(new) @ unit(words).T
    np.testing.assert_allclose(task.score(Features(embed=F.normalize(new))).numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_few_shots_are_drawn_kept_and_saved(tmp_path):
    generator = torch.Generator().manual_seed(0)
    colours = 2 * torch.randn(3, 3, 1, 1, generator=generator)
    pictures = [torch.randn(3, 32, 32, generator=generator) + colours[row % 3] for row in range(30)]
    samples = tuple(TensorSample(f"picture {row}", picture) for row, picture in enumerate(pictures))
    kinds = Column("kind", "text", tuple(CLASSES[row % 3] for row in range(30)))
    head = zoo.head("tip_adapter", name="kind", classes=CLASSES, shots=2)
    model = zoo.build("timm:test_resnet", head, weights=None, seed=0)

    history = zoo.fit(
        model, Table("made up", {"image": samples}, {"kind": kinds}), method="feature_extraction", shots=2, device="cpu"
    )

    assert history.rows == {"train": 6, "validation": 6}
    assert history.validation["kind"]["accuracy"] == 1.0
    again = zoo.load(model.save(tmp_path / "bundle"))
    assert again.predict(pictures[:5]) == model.predict(pictures[:5])


# --- refusals


def test_a_class_without_a_row_is_named(make):
    vectors, target = rows()
    with pytest.raises(DataError, match=r"\(tip_adapter\) needs a training row of each class, .* none of 'dog'"):
        taught(make("tip_adapter", classes=CLASSES), vectors[target < 2], target[target < 2])


def test_what_was_not_told_yet_is_said(make):
    task = make("tip_adapter", classes=CLASSES)
    with pytest.raises(ConfigError, match=r"\(tip_adapter\) has not learnt its cache yet; show it labelled rows"):
        task.decode(torch.zeros(1, 3))
    with pytest.raises(ConfigError, match="is a cache alone; build it with dim=… of a dual model"):
        task.set_classes(torch.ones(3, 6))
    with pytest.raises(CapabilityError, match="needs the pooled vector"):
        task.score(Features(embed=torch.ones(1, 6)))
    beside = make("tip_adapter", classes=CLASSES, dim=6)
    with pytest.raises(ConfigError, match="does not know what its classes mean yet"):
        beside.prepare(["cat"])
    with pytest.raises(ShapeError, match="build the head with dim=8"):
        beside.set_classes(torch.ones(3, 8))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"shots": 0}, "shots must be 1 or more"),
        ({"alpha": 0.0}, "alpha must be above 0"),
        ({"beta": -1.0}, "beta must be above 0"),
        ({"scale": 3.0}, "scale is of zero-shot logits; set dim"),
        ({"templates": ["a {}"]}, "templates is of zero-shot logits; set dim"),
        ({"dim": 6, "templates": ["a"]}, r"a template must have \{\}"),
        ({"classes": ["a"]}, "classes must be 2 or more"),
        ({"classes": None}, r"The head 'kind' \(tip_adapter\) must know its classes"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_sentence(make, config, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make("tip_adapter", **{"classes": CLASSES, **config})


@pytest.mark.slow
def test_tip_adapters_conform():
    check_head({"type": "tip_adapter", "name": "kind", "classes": CLASSES, "shots": 2, "alpha": 3.0, "beta": 2.0})
