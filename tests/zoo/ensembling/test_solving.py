"""Weights from outputs and labels, beside closed forms and other solvers."""

import numpy as np
import pytest
import torch

import zoo
from zoo.ensembling.combining import mixture, stacked_outputs
from zoo.ensembling.solving import fit_stack, greedy_counts, simplex_weights


@pytest.fixture(scope="module")
def tasks():
    heads = [
        zoo.head("classifier", name="pet", classes=["a", "b", "c"]),
        zoo.head("classifier", name="tags", classes=["x", "y"], multi_label=True),
        zoo.head("regression", name="age"),
    ]
    return zoo.build("timm:test_resnet", heads, weights=None, seed=0).double().tasks()


def drawn(members: int, rows: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw labels, and members that know them more or less."""
    dice = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (rows,), generator=dice)
    noise = torch.randn(members, rows, classes, generator=dice, dtype=torch.float64)
    skill = torch.linspace(0.3, 1.5, members, dtype=torch.float64).reshape(-1, 1, 1)
    return noise + skill * torch.nn.functional.one_hot(targets, classes), targets


def test_weights_of_probabilities_have_the_least_cross_entropy_of_all_simplex_points(tasks):
    outputs, targets = drawn(3, 200, 3)
    chances = outputs.softmax(dim=2)[:, torch.arange(200), targets].numpy()

    found = np.array(simplex_weights(tasks["pet"], outputs, targets))

    grid = [(a, b, 1 - a - b) for a in np.linspace(0, 1, 101) for b in np.linspace(0, 1 - a, 101)]
    least = min(-np.log(np.maximum(np.dot(w, chances), 1e-12)).mean() for w in grid)
    assert found.sum() == pytest.approx(1)
    assert (found >= 0).all()
    assert -np.log(found @ chances).mean() <= least + 1e-9


def test_weights_of_numbers_are_those_of_non_negative_least_squares_on_the_simplex(tasks):
    from scipy.optimize import minimize

    dice = torch.Generator().manual_seed(1)
    targets = torch.randn(80, generator=dice, dtype=torch.float64)
    outputs = targets + torch.randn(4, 80, generator=dice, dtype=torch.float64) * torch.tensor(
        [[0.5], [1.0], [2.0], [9.0]]
    )
    x, y = outputs.numpy(), targets.numpy()
    truth = minimize(
        lambda w: ((w @ x - y) ** 2).mean(),
        np.full(4, 0.25),
        bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        tol=1e-12,
    )

    found = simplex_weights(tasks["age"], outputs, targets)

    np.testing.assert_allclose(found, truth.x, atol=1e-3)


def test_a_member_that_is_right_alone_gets_all_the_weight(tasks):
    targets = torch.linspace(-1, 1, 20, dtype=torch.float64)
    outputs = torch.stack([targets + 3, targets, targets.flip(0)])

    assert simplex_weights(tasks["age"], outputs, targets) == (0.0, 1.0, 0.0)


def test_stacking_of_numbers_is_ridge_regression_about_the_mean(tasks):
    dice = torch.Generator().manual_seed(2)
    targets = torch.randn(50, generator=dice, dtype=torch.float64) * 3 + 2000
    outputs = targets + torch.randn(3, 50, generator=dice, dtype=torch.float64)
    x, y, strength = outputs.T.numpy(), targets.numpy(), 4.0
    centred, rest = x - x.mean(axis=0), (y - y.mean()) - (x - x.mean(axis=0)) @ np.full(3, 1 / 3)
    truth = 1 / 3 + np.linalg.solve(centred.T @ centred + strength / 2 * np.eye(3), centred.T @ rest)

    found = fit_stack(tasks["age"], outputs, targets, strength=strength)

    np.testing.assert_allclose(found.weight[:, 0].numpy(), truth, atol=1e-5)
    assert found.bias.item() == pytest.approx(y.mean() - x.mean(axis=0) @ truth, abs=0.02)


def test_stacking_of_labels_is_logistic_regression_on_logits(tasks):
    from sklearn.linear_model import LogisticRegression

    dice = torch.Generator().manual_seed(3)
    targets = torch.randint(2, (150, 2), generator=dice).double()
    outputs = torch.randn(3, 150, 2, generator=dice, dtype=torch.float64) + targets * torch.tensor(
        [[[0.5]], [[1.0]], [[2.0]]]
    )

    found = fit_stack(tasks["tags"], outputs, targets, strength=1e-6)

    for label in range(2):
        truth = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000)
        truth.fit(outputs[:, :, label].T.numpy(), targets[:, label].numpy())
        np.testing.assert_allclose(found.weight[:, label].numpy(), truth.coef_[0], atol=1e-3)
        assert found.bias[label].item() == pytest.approx(truth.intercept_[0], abs=1e-3)


def test_stacking_of_classes_is_where_the_gradient_of_its_objective_is_zero(tasks):
    outputs, targets = drawn(3, 120, 3)
    x, strength = np.maximum(outputs.log_softmax(dim=2).numpy(), np.log(1e-6)), 2.0

    found = fit_stack(tasks["pet"], outputs, targets, strength=strength)

    weight, bias = found.weight.numpy(), found.bias.numpy()
    scores = (weight[:, None] * x).sum(axis=0) + bias
    chances = np.exp(scores - scores.max(axis=1, keepdims=True))
    error = chances / chances.sum(axis=1, keepdims=True) - np.eye(3)[targets.numpy()]
    np.testing.assert_allclose((error * x).mean(axis=1) + strength / 120 * (weight - 1 / 3), 0, atol=1e-6)
    np.testing.assert_allclose(error.mean(axis=0), 0, atol=1e-6)


@pytest.mark.slow
def test_a_strong_stack_is_the_mean(tasks):
    outputs, targets = drawn(3, 60, 3)

    found = fit_stack(tasks["pet"], outputs, targets, strength=1e9)

    np.testing.assert_allclose(found.weight.numpy(), 1 / 3, atol=1e-6)


def test_a_stack_scores_as_it_was_fitted(tasks):
    outputs, targets = drawn(4, 90, 3)
    found = fit_stack(tasks["pet"], outputs, targets, strength=1.0)

    fitted = tasks["pet"].loss(stacked_outputs(outputs, "softmax", found), targets)

    assert fitted < tasks["pet"].loss(mixture(outputs, "softmax"), targets)


def recalls(chances: np.ndarray, targets: np.ndarray) -> float:
    told = chances.argmax(axis=1)
    return float(np.mean([(told[targets == k] == k).mean() for k in np.unique(targets)]))


@pytest.mark.parametrize("start", [1, 2])
def test_greedy_selection_is_caruanas(tasks, start):
    outputs, targets = drawn(5, 60, 3, seed=4)
    chances, labels = outputs.softmax(dim=2).numpy(), targets.numpy()

    def score(bag):
        mean = chances[bag].mean(axis=0)
        return recalls(mean, labels), np.log(mean[np.arange(60), labels]).mean()

    alone = sorted(range(5), key=lambda n: score([n]), reverse=True)
    bag = alone[:start]
    best, top = list(bag), score(bag)
    while len(bag) < 8:
        bag = [*bag, max(range(5), key=lambda n: score([*bag, n]))]
        if score(bag) > top:
            best, top = list(bag), score(bag)

    found = greedy_counts(tasks["pet"], outputs.float(), targets, rounds=8, start=start)

    assert found == tuple(best.count(n) for n in range(5))
    assert sum(found) >= start


def test_greedy_selection_of_numbers_takes_the_lesser_error(tasks):
    targets = torch.linspace(0, 1, 20)
    outputs = torch.stack([targets + 2, targets - 2, targets + 30])

    assert greedy_counts(tasks["age"], outputs, targets, rounds=6, start=1) == (1, 1, 0)
