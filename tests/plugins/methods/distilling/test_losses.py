"""What a student loses, beside the papers' formulas written out in NumPy."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import zoo
from zoo_methods.distilling.losses import (
    angle_loss,
    attention_loss,
    attention_of,
    distance_loss,
    hint_loss,
    soft_loss,
)


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def given(array):
    return torch.tensor(array, dtype=torch.float32)


def softmax(z):
    return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


def huber(x, y):
    gap = np.abs(x - y)
    return np.where(gap <= 1, 0.5 * gap**2, gap - 0.5)


# --- outputs


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_classes_are_the_divergence_from_the_teacher_times_the_squared_temperature(temperature):
    student, teacher = 3 * drawn(5, 4), 3 * drawn(5, 4, seed=1)

    found = soft_loss(given(student), given(teacher), "softmax", temperature=temperature)

    p, q = softmax(teacher / temperature), softmax(student / temperature)
    assert found.item() == pytest.approx(temperature**2 * (p * np.log(p / q)).sum(axis=1).mean(), rel=1e-5)


def test_its_gradient_is_that_of_soft_targets_and_at_a_high_temperature_that_of_matched_logits():
    student, teacher = given(drawn(5, 4)).requires_grad_(), given(drawn(5, 4, seed=1))
    (soft,) = torch.autograd.grad(soft_loss(student, teacher, "softmax", temperature=2.0), student)
    (hard,) = torch.autograd.grad(4 * F.cross_entropy(student / 2, (teacher / 2).softmax(dim=1)), student)
    (hot,) = torch.autograd.grad(soft_loss(student, teacher, "softmax", temperature=1000.0), student)

    assert torch.allclose(soft, hard, atol=1e-6)
    centred = [one - one.mean(dim=1, keepdim=True) for one in (student, teacher)]
    matching = (centred[0] - centred[1]) / 4 / 5  # equation 4: logits that are matched, over N classes and the batch
    assert torch.allclose(hot, matching, atol=1e-3)


def test_labels_are_two_outcomes_each():
    student, teacher = 2 * drawn(5, 3), 2 * drawn(5, 3, seed=1)

    found = soft_loss(given(student), given(teacher), "sigmoid", temperature=2.0)

    p, q = (1 / (1 + np.exp(-z / 2)) for z in (teacher, student))
    each = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    assert found.item() == pytest.approx(4 * each.mean(), rel=1e-5)


def test_numbers_are_squared_errors_in_their_unit_whatever_the_temperature():
    student, teacher = 10 * drawn(6), 10 * drawn(6, seed=1)

    found = soft_loss(given(student), given(teacher), None, temperature=9.0, scale=torch.tensor(10.0))

    assert found.item() == pytest.approx((((student - teacher) / 10) ** 2).mean(), rel=1e-5)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_teacher_that_is_sure_makes_no_nan_and_an_equal_student_loses_nothing(activation):
    teacher = (
        torch.tensor([[300.0, -300.0], [-torch.inf, 0.0]]) if activation == "softmax" else torch.full((2, 2), 300.0)
    )
    student = torch.zeros(2, 2, requires_grad=True)

    soft_loss(student, teacher, activation, temperature=2.0).backward()

    assert student.grad.isfinite().all()
    same = given(drawn(4, 3))
    assert soft_loss(same, same, activation, temperature=2.0).item() == pytest.approx(0, abs=1e-6)


def test_pixels_of_a_teacher_that_sees_larger_pictures_are_resized():
    student, teacher = given(drawn(2, 3, 4, 4)), given(drawn(2, 3, 8, 8, seed=1))

    found = soft_loss(student, teacher, "softmax")

    small = teacher.unflatten(-1, (4, 2)).unflatten(-3, (4, 2)).mean(dim=(-1, -3))  # bilinear by half: 2 x 2 means
    flat = [one.movedim(1, -1).flatten(0, 2) for one in (student, small)]
    assert found.item() == pytest.approx(soft_loss(*flat, "softmax").item(), rel=1e-5)


def test_outputs_of_other_shapes_are_one_sentence():
    with pytest.raises(
        zoo.ShapeError, match=r"shape of the student's, \(3,\) a row, got \(4,\); give both the same head"
    ):
        soft_loss(torch.zeros(2, 3), torch.zeros(2, 4), None)


# --- maps


def test_hints_are_half_the_mean_squared_difference_of_maps():
    guided, hint = drawn(2, 3, 4, 4), drawn(2, 3, 4, 4, seed=1)

    assert hint_loss(given(guided), given(hint)).item() == pytest.approx(0.5 * ((guided - hint) ** 2).mean(), rel=1e-5)
    assert hint_loss(given(guided), F.interpolate(given(hint), size=8)).isfinite()


def test_attention_is_half_the_distance_of_normalised_sums_of_squares():
    student, teacher = drawn(2, 3, 4, 4), drawn(2, 5, 4, 4, seed=1)

    found = attention_loss(attention_of(given(student)), attention_of(given(teacher)))

    ours, theirs = ((one**2).sum(axis=1).reshape(2, -1) for one in (student, teacher))
    gap = ours / np.linalg.norm(ours, axis=1)[:, None] - theirs / np.linalg.norm(theirs, axis=1)[:, None]
    assert found.item() == pytest.approx(0.5 * np.linalg.norm(gap, axis=1).mean(), rel=1e-5)
    larger = F.interpolate(attention_of(given(teacher))[:, None], size=8)[:, 0]
    assert attention_loss(attention_of(given(student)), larger).item() == pytest.approx(found.item(), rel=1e-5)


# --- relations


def test_distances_are_compared_in_units_of_their_mean():
    student, teacher = 5 * drawn(5, 3), drawn(5, 7, seed=1)

    found = distance_loss(given(student), given(teacher))

    pairs = list(itertools.permutations(range(5), 2))
    ours, theirs = (np.array([np.linalg.norm(x[i] - x[j]) for i, j in pairs]) for x in (student, teacher))
    assert found.item() == pytest.approx(huber(ours / ours.mean(), theirs / theirs.mean()).mean(), rel=1e-4)


def test_angles_are_compared_at_each_of_three_rows():
    student, teacher = drawn(5, 3), 4 * drawn(5, 7, seed=1)

    found = angle_loss(given(student), given(teacher))

    def cosine(x, i, j, k):
        one, other = x[i] - x[j], x[k] - x[j]
        return one @ other / np.linalg.norm(one) / np.linalg.norm(other)

    each = [
        huber(cosine(student, i, j, k), cosine(teacher, i, j, k)) for i, j, k in itertools.permutations(range(5), 3)
    ]
    assert found.item() == pytest.approx(np.mean(each), rel=1e-4)


@pytest.mark.parametrize("loss", [distance_loss, angle_loss])
def test_relations_of_rows_that_are_one_or_equal_have_a_finite_gradient(loss):
    for rows in (1, 2, 4):
        vectors = torch.ones(rows, 3, requires_grad=True)
        value = loss(vectors, given(drawn(rows, 5)))
        value.backward()

        assert value.isfinite()
        assert vectors.grad.isfinite().all()
        assert rows > 2 or loss is distance_loss or value.item() == 0
