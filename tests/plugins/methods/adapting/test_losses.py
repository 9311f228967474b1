"""How far domains are apart, beside the papers' formulas in numpy, and the reversed gradient beside autograd."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from zoo_methods.adapting.losses import coral_loss, mmd_loss, reversal_strength, reverse


@pytest.fixture
def pair():
    drawn = torch.Generator().manual_seed(3)
    return torch.randn(9, 4, generator=drawn), 1.5 * torch.randn(6, 4, generator=drawn) + 0.7


def test_coral_is_the_papers_distance_of_covariances(pair):
    source, target = (one.double().numpy() for one in pair)
    expected = np.linalg.norm(np.cov(source.T) - np.cov(target.T), "fro") ** 2 / (4 * 4**2)

    assert coral_loss(*pair).item() == pytest.approx(expected, rel=1e-5)
    assert coral_loss(pair[0], pair[0] + 3).item() == pytest.approx(0, abs=1e-9)


def test_mmd_is_the_distance_of_the_kernel_means_over_all_pairs(pair):
    source, target = (one.double().numpy() for one in pair)
    rows = np.concatenate([source, target])
    apart = [np.sum((a - b) ** 2) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
    widths = [np.mean(apart) * factor for factor in (0.5, 1.0, 2.0)]

    def kernel(a, b):
        return np.mean([math.exp(-np.sum((a - b) ** 2) / width) for width in widths])

    def mean(ones, others):
        return np.mean([kernel(a, b) for a in ones for b in others])

    expected = mean(source, source) + mean(target, target) - 2 * mean(source, target)
    assert mmd_loss(*pair, kernels=3).item() == pytest.approx(expected, rel=1e-4)
    assert mmd_loss(pair[0], pair[0]).item() == pytest.approx(0, abs=1e-6)


def test_mmd_has_a_finite_gradient_also_where_all_rows_are_the_same():
    rows = torch.ones(4, 3, requires_grad=True)
    mmd_loss(rows, rows.detach()).backward()

    assert rows.grad is not None
    assert rows.grad.isfinite().all()


@pytest.mark.parametrize("loss", [coral_loss, mmd_loss])
def test_a_step_down_the_gradient_brings_the_domains_together(loss, pair):
    source, target = pair[0].clone().requires_grad_(), pair[1]
    before = loss(source, target)
    before.backward()

    assert loss(source.detach() - 0.1 * source.grad / source.grad.norm(), target) < before


def test_the_gradient_is_reversed_for_what_is_below_and_not_for_what_is_above():
    torch.manual_seed(0)
    below, above, rows = nn.Linear(3, 4), nn.Linear(4, 2), torch.randn(5, 3)

    def gradients(strength):
        features = below(rows)
        loss = above(features if strength is None else reverse(features, strength)).square().sum()
        return torch.autograd.grad(loss, [below.weight, above.weight])

    plain, turned = gradients(None), gradients(0.3)
    torch.testing.assert_close(turned[0], -0.3 * plain[0])
    torch.testing.assert_close(turned[1], plain[1])


def test_the_strength_of_the_reversal_follows_the_papers_schedule():
    assert reversal_strength(0) == 0
    assert reversal_strength(0.25) == pytest.approx(2 / (1 + math.exp(-2.5)) - 1)
    assert reversal_strength(1) == pytest.approx(0.99990920)
