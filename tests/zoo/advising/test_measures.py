"""Each measure beside an independent truth: a library's, a closed form, or brute force."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from zoo.advising.cka import linear_cka
from zoo.advising.linear_probe import fit_linear, linear_probe, standardise
from zoo.advising.logme import evidence, log_evidence, logme
from zoo.advising.neighbours import neighbours
from zoo.advising.scoring import gain, gain_error, skill
from zoo.advising.size import size_of


def drawn(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- skill


@pytest.mark.parametrize("many", [2, 3, 7])
def test_skill_of_classes_is_balanced_accuracy_above_chance_for_any_number_of_classes(many):
    draw = np.random.default_rng(many)
    target = np.concatenate([np.arange(many), draw.integers(0, many, 60)])
    guess = draw.integers(0, many, len(target))

    found = skill("classes", torch.from_numpy(target), torch.from_numpy(guess))

    assert found == pytest.approx(balanced_accuracy_score(target, guess, adjusted=True), abs=1e-6)
    assert skill("classes", torch.from_numpy(target), torch.from_numpy(target)) == pytest.approx(1)
    assert skill("classes", torch.from_numpy(target), torch.zeros(len(target), dtype=torch.int64)) == pytest.approx(
        0, abs=1e-6
    )


def test_skill_of_numbers_is_r_squared():
    target, guess = drawn(50, 1).squeeze(1), drawn(50, 1, 1).squeeze(1)

    assert skill("numbers", target, guess) == pytest.approx(r2_score(target.numpy(), guess.numpy()))


def test_skill_of_labels_is_the_mean_over_the_labels():
    target = torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0]]).bool()
    guess = torch.stack([target[:, 0], ~target[:, 1]], dim=1)

    assert skill("labels", target, guess) == pytest.approx((1 - 1) / 2)


def test_skill_of_labels_that_do_not_vary_is_not_a_number():
    assert math.isnan(skill("classes", torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)))
    assert math.isnan(skill("numbers", torch.ones(4), torch.ones(4)))


@pytest.mark.parametrize(
    ("pretrained", "reference", "share"), [(0.8, 0.6, 0.5), (0.6, 0.6, 0), (0.4, -0.3, 0.4), (0.5, 0.75, -1)]
)
def test_the_gain_is_the_share_of_the_errors_that_are_done_away_with(pretrained, reference, share):
    assert gain(pretrained, reference) == pytest.approx(share)


def test_the_error_of_the_gain_is_the_deviation_over_data_drawn_anew():
    """200 data sets of the same kind: how the gain varies over them is what one of them must say of itself."""
    draw = torch.Generator().manual_seed(0)
    gains, errors = [], []
    for number in range(200):
        target = torch.randint(2, (200,), generator=draw)
        good = torch.where(torch.rand(200, generator=draw) < 0.85, target, 1 - target)
        bad = torch.where(torch.rand(200, generator=draw) < 0.65, target, 1 - target)
        gains.append(gain(skill("classes", target, good), skill("classes", target, bad)))
        if number < 8:
            errors.append(gain_error("classes", target, good, bad, seed=number))

    assert float(np.mean(errors)) == pytest.approx(float(np.std(gains)), rel=0.25)


# --- linear separability


@pytest.mark.parametrize("penalty", [0.1, 0.01])
def test_classes_are_learnt_as_scikit_learn_learns_them(classes, penalty):
    features = standardise(drawn(90, 6))
    target = (features @ drawn(6, 3, 1) + 0.3 * drawn(90, 3, 2)).argmax(dim=1)
    question = classes(target)

    found = fit_linear(features, question, penalty)

    truth = LogisticRegression(C=1 / (penalty * 90), class_weight="balanced", tol=1e-8, max_iter=2000)
    truth.fit(features.numpy(), target.numpy())
    scores = (features @ found[:-1] + found[-1]).softmax(dim=1).numpy()
    assert np.abs(scores - truth.predict_proba(features.numpy())).max() < 1e-4


def test_labels_are_learnt_as_one_balanced_logistic_regression_each(labels):
    features = standardise(drawn(80, 5))
    target = features @ drawn(5, 2, 1) + 0.2 * drawn(80, 2, 2) > torch.tensor([0.0, 0.3])

    found = fit_linear(features, labels(target), 0.02)

    for column in range(2):
        truth = LogisticRegression(C=1 / (0.02 * 80), class_weight="balanced", tol=1e-8, max_iter=2000)
        truth.fit(features.numpy(), target[:, column].numpy())
        assert found[:-1, column].numpy() == pytest.approx(truth.coef_[0], abs=1e-3)
        assert float(found[-1, column]) == pytest.approx(truth.intercept_[0], abs=1e-3)


def test_numbers_are_learnt_by_ridge_regression(numbers):
    features, target = drawn(40, 7), drawn(40, 1, 1).squeeze(1) + 5

    found = fit_linear(features, numbers(target), 0.1)

    truth = Ridge(alpha=0.1 * 40).fit(features.numpy(), target.numpy())
    assert found[:-1, 0].numpy() == pytest.approx(truth.coef_)
    assert float(found[-1, 0]) == pytest.approx(truth.intercept_)


def test_the_probe_finds_what_is_linear_and_nothing_in_noise(classes, numbers):
    features = drawn(200, 8)
    right, noise = (features[:, 0] > 0).long(), (drawn(200, 1, 5).squeeze(1) > 0).long()

    assert linear_probe(features, classes(right))[0] > 0.85
    assert abs(linear_probe(features, classes(noise))[0]) < 0.2
    assert linear_probe(features, numbers(features[:, 1] * 3 + 7))[0] > 0.95
    assert linear_probe(features, numbers(drawn(200, 1, 6).squeeze(1)))[0] < 0.1


def test_each_row_is_predicted_by_a_model_that_has_not_seen_it(classes):
    """With more dimensions than rows any labels can be learnt by heart; on rows not seen they are chance."""
    features, target = drawn(60, 500), torch.arange(60) % 2

    score, predicted = linear_probe(features, classes(target))

    assert abs(score) < 0.45
    assert not torch.equal(predicted, target)


def test_more_dimensions_than_rows_are_turned_without_changing_the_solution(classes, monkeypatch):
    import zoo.advising.linear_probe as room

    features = drawn(40, 90)
    question = classes((features[:, :3].sum(dim=1) > 0).long())
    score, predicted = linear_probe(features, question)
    monkeypatch.setattr(room, "_rotated", lambda held: held)

    plain, other = linear_probe(features, question)

    assert score == plain
    assert torch.equal(predicted, other)


def test_dimensions_that_do_not_vary_say_nothing_and_break_nothing():
    features = torch.cat([drawn(10, 2), torch.ones(10, 1, dtype=torch.float64)], dim=1)

    found = standardise(features)

    assert bool((found[:, 2] == 0).all())
    assert float(found.square().sum(dim=1).mean()) == pytest.approx(1)


# --- nearest neighbours


def test_neighbours_are_those_of_scikit_learn_each_row_left_out(classes, numbers):
    features = drawn(80, 4) + 0.5
    target = (features[:, 0] + 0.4 * drawn(80, 1, 1).squeeze(1) > features[:, 1]).long()
    balanced = torch.cat([(target == 0).nonzero()[:20], (target == 1).nonzero()[:20]]).squeeze(1)
    here, asked = features[balanced], classes(target[balanced])
    assert asked.counts().tolist() == [20, 20]
    guesses, values = [], []
    for row in range(40):
        rest = [other for other in range(40) if other != row]
        kinds = KNeighborsClassifier(5, metric="cosine").fit(here[rest], asked.target[rest])
        guesses.append(int(kinds.predict(here[row : row + 1])[0]))
        amounts = KNeighborsRegressor(5, metric="cosine").fit(here[rest], here[rest, 0])
        values.append(float(amounts.predict(here[row : row + 1])[0]))

    assert neighbours(here, asked) == pytest.approx(
        balanced_accuracy_score(asked.target.numpy(), guesses, adjusted=True), abs=1e-6
    )
    assert neighbours(here, numbers(here[:, 0])) == pytest.approx(r2_score(here[:, 0].numpy(), values))


def test_a_common_class_does_not_win_by_being_common(classes, labels):
    """Two of five neighbours are of a class of 6 rows, three of one of 60: the rare one has the higher share."""
    angle = torch.linspace(0, 0.01, 6, dtype=torch.float64)
    rare = torch.stack([angle.cos(), angle.sin()], dim=1)
    common = torch.stack([angle.cos(), angle.sin() + 1e-4], dim=1)
    far = torch.tensor([[-1.0, 0.1]], dtype=torch.float64).expand(54, 2) + 0.01 * drawn(54, 2)
    features = torch.cat([rare, common, far])
    target = torch.tensor([0] * 6 + [1] * 60)

    rows = torch.zeros(66, dtype=torch.int64)
    assert neighbours(features, classes(target)) > 0.85
    assert neighbours(features, labels((1 - target)[:, None])) > 0.85
    assert skill("classes", target, rows) == pytest.approx(0)


# --- LogME


def dense(alpha: float, beta: float, features: torch.Tensor, column: torch.Tensor) -> float:
    """The evidence as the density of the labels: normal, with covariance ``I / β + F Fᵀ / α``."""
    rows = len(column)
    covariance = torch.eye(rows, dtype=torch.float64) / beta + features @ features.T / alpha
    return float(torch.distributions.MultivariateNormal(torch.zeros(rows).double(), covariance).log_prob(column))


@pytest.mark.parametrize(("rows", "width"), [(20, 5), (8, 12)])
def test_the_evidence_is_the_density_of_the_labels(rows, width):
    features, column = drawn(rows, width), drawn(rows, 1, 1).squeeze(1)
    left, values, _ = torch.linalg.svd(features, full_matrices=False)

    for alpha, beta in ((1.0, 1.0), (0.2, 7.0), (30.0, 0.5)):
        found = log_evidence(alpha, beta, left.T @ column, values.square(), float(column @ column), rows)
        assert found == pytest.approx(dense(alpha, beta, features, column))


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "width", "noise"), [(30, 4, 0.5), (12, 20, 0.3), (40, 3, 3.0)])
def test_the_fixed_point_is_the_highest_evidence_of_a_fine_grid(rows, width, noise):
    features = drawn(rows, width)
    column = features @ drawn(width, 1, 1).squeeze(1) + noise * drawn(rows, 1, 2).squeeze(1)
    left, values, _ = torch.linalg.svd(features, full_matrices=False)
    given = (left.T @ column, values.square(), float(column @ column), rows)
    grid = [10 ** (number / 10) for number in range(-40, 41)]

    brute = max(log_evidence(alpha, beta, *given) for alpha in grid for beta in grid)

    assert evidence(*given) == pytest.approx(brute, abs=0.05)
    assert evidence(*given) >= brute - 1e-6


def test_logme_is_about_nothing_where_features_say_nothing_and_higher_where_they_say_more(classes, numbers):
    features, target = drawn(150, 6), drawn(150, 1, 3).squeeze(1)
    clear = features[:, 0] + 0.1 * target
    hazy = features[:, 0] + 2.0 * target

    assert abs(logme(features, numbers(target))) < 0.03
    assert logme(features, numbers(clear)) > logme(features, numbers(hazy)) > 0.03
    assert abs(logme(features, classes(torch.randint(3, (150,), generator=torch.Generator().manual_seed(1))))) < 0.03


def test_scale_and_place_of_features_change_nothing(classes):
    features = drawn(60, 5)
    question = classes((features[:, 0] > 0).long())

    assert logme(features * 1e3 + 7, question) == pytest.approx(logme(features, question), rel=1e-6)


# --- CKA


@pytest.mark.parametrize(("rows", "one", "other"), [(30, 4, 6), (8, 20, 5)])
def test_cka_is_the_alignment_of_the_centred_kernels(rows, one, other):
    x, y = drawn(rows, one) + 3, drawn(rows, other, 1)
    centre = torch.eye(rows, dtype=torch.float64) - 1 / rows
    k, l = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre  # noqa: E741

    hsic = float((k * l).sum() / (torch.linalg.norm(k) * torch.linalg.norm(l)))

    assert linear_cka(x, y) == pytest.approx(hsic)
    assert linear_cka(y, x) == pytest.approx(hsic)


def test_cka_knows_features_that_are_turned_and_scaled_again():
    features = drawn(25, 6)
    turned = torch.linalg.qr(drawn(6, 6, 2))[0]

    assert linear_cka(features, 5 * features @ turned + 2) == pytest.approx(1)
    assert linear_cka(features, drawn(25, 6, 9)) < 0.5
    assert math.isnan(linear_cka(features, torch.ones(25, 3)))


# --- size


def test_sizes_are_counted_for_each_class_and_label(classes, labels, numbers):
    many = size_of(classes([0] * 12 + [1] * 3, names=("cat", "dog")))
    tags = size_of(labels([[1, 0], [1, 1], [1, 0]]))
    ages = size_of(numbers([1.0, 2.0, 3.0]))

    assert (many.rows, many.least, many.median, many.imbalance) == (15, 3, 3, 4.0)
    assert many.classes == {"dog": 3, "cat": 12}
    assert (tags.rows, tags.classes) == (3, {"l1": 1, "l0": 3})
    assert (ages.rows, ages.least, ages.classes) == (3, None, {})
