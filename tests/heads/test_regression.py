"""The regression against closed forms and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from zoo.errors import CapabilityError, ConfigError, DataError
from zoo.testing import check_head

YEARS = [1990.0, 2010.0, 2002.0, 1998.0]


def huber(x):
    return np.where(np.abs(x) < 1, x**2 / 2, np.abs(x) - 0.5)


@pytest.mark.parametrize(("loss", "each"), [("mse", np.square), ("mae", np.abs), ("huber", huber)])
def test_the_loss_is_in_units_of_the_targets_standard_deviation(make, loss, each):
    task = make("regression", "age", loss=loss).double()
    task.prepare(YEARS)
    output = torch.tensor([2000.0, 1975.0, 2003.0], dtype=torch.float64)

    found = task.loss(output, task.encode([1990.0, 2010.0, None]))

    error = (output[:2].numpy() - [1990.0, 2010.0]) / np.std(YEARS)
    assert found.item() == pytest.approx(each(error).mean(), rel=1e-6)


def test_without_standardising_the_loss_is_in_the_unit_of_the_labels(make):
    task = make("regression", "age", standardize=False)
    task.prepare(YEARS)

    loss = task.loss(torch.tensor([3.0, 5.0]), task.encode([1.0, 2.0]))

    assert loss.item() == pytest.approx((4 + 9) / 2)
    assert (task.get_buffer("mean"), task.get_buffer("std")) == (0, 1)


def test_the_output_is_in_the_unit_of_the_labels(make, features):
    task, given = make("regression", "age"), features(3)
    task.prepare([*YEARS, None])

    output = task(given)["age"]

    standard = task.layers(given["main"].pooled).squeeze(-1).detach().numpy()
    np.testing.assert_allclose(output.detach(), standard * np.std(YEARS) + np.mean(YEARS), rtol=1e-6)
    assert output.shape == (3,)


def test_half_precision_layers_do_not_coarsen_the_output(make, features):
    task, given = make("regression", "age", norm=True), features(64)
    task.prepare(YEARS)
    exact = task(given)["age"]

    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = task(given)["age"]

    assert output.dtype == torch.float32  # bfloat16 has steps of 8 at 2000
    torch.testing.assert_close(output, exact, rtol=0, atol=0.02 * float(np.std(YEARS)))


def test_a_constant_target_leaves_the_scale_alone(make, features):
    task = make("regression", "age")
    task.prepare([7.0, 7.0, 7.0])

    loss = task.loss(task(features(3))["age"], task.encode([7.0, 7.0, 7.0]))

    assert (task.get_buffer("mean"), task.get_buffer("std")) == (7, 1)
    assert math.isfinite(loss.item())


def test_a_constant_that_binary_cannot_write_gives_a_finite_loss(make, features):
    task = make("regression", "age")
    task.prepare([0.1] * 1001)

    loss = task.loss(task(features(3))["age"], task.encode([0.1] * 3))

    assert math.isfinite(loss.item())


def test_labels_that_are_all_missing_teach_nothing(make):
    task = make("regression", "age")

    task.prepare([None, None])

    assert (task.get_buffer("mean"), task.get_buffer("std")) == (0, 1)


def test_a_batch_without_any_label_has_a_loss_of_zero_that_reaches_every_parameter(make, features):
    task = make("regression", "age", hidden=4)

    loss = task.loss(task(features(2))["age"], task.encode([None, None]))
    loss.backward()

    assert loss.item() == 0
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in task.parameters())


def test_metrics_equal_scikit_learns_on_data_with_gaps(make):
    task, rng = make("regression", "age"), np.random.default_rng(0)
    truth, guess, known = rng.normal(50, 9, 40), rng.normal(50, 9, 40), rng.random(40) < 0.6
    target = task.encode([float(v) if there else None for v, there in zip(truth, known, strict=True)])
    metrics = task.metrics()

    for rows in torch.arange(40).chunk(3):
        task.update(metrics, torch.tensor(guess, dtype=torch.float32)[rows], target[rows])

    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found == pytest.approx(
        {
            "mae": sk.mean_absolute_error(truth[known], guess[known]),
            "rmse": sk.root_mean_squared_error(truth[known], guess[known]),
        },
        rel=1e-5,
    )
    assert task.best_metric == ("mae", False)


def test_bounds_hold_in_predictions_and_metrics_but_not_in_the_loss(make):
    task = make("regression", "age", bounds=[0.0, 1.0], standardize=False)
    output, target = torch.tensor([-2.0, 0.25, 3.0]), torch.tensor([0.0, 0.25, 1.0])
    metrics = task.metrics()

    task.update(metrics, output, target)

    assert [one.value for one in task.decode(output)] == [0.0, 0.25, 1.0]
    assert metrics.compute()["mae"] == 0
    assert task.loss(output, target).item() == pytest.approx(8 / 3)  # a prediction outside must be pulled back


def test_a_prediction_is_plain_json(make):
    (one,) = make("regression", "age").decode(torch.tensor([1.5]))

    assert one.as_json() == {"value": 1.5}


@pytest.mark.parametrize("label", [math.nan, math.inf, -math.inf, 1e39, 10**400, "12", (1,)])
def test_a_label_that_is_no_finite_number_is_refused(make, label):
    with pytest.raises(DataError, match=r"The head 'age' \(regression\) takes finite numbers, got"):
        make("regression", "age").encode([1.0, label])


def test_whole_numbers_and_answers_are_numbers(make):
    assert make("regression", "age").encode([3, True, 2.5]).tolist() == [3.0, 1.0, 2.5]


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"bounds": [1.0, 0.0]}, "bounds must be a lower and a higher value"),
        ({"bounds": [1.0, 1.0]}, "bounds must be a lower and a higher value"),
        ({"bounds": [1.0]}, "bounds"),
        ({"loss": "msle"}, "loss: Input should be 'mse', 'mae' or 'huber'"),
        ({"hidden": -1}, "hidden must be 1 or more"),
        ({"dropout": 2.0}, "dropout must be in"),
        ({"weight": -0.5}, "weight must be 0 or more"),
        ({"standardize": 1}, "standardize"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_sentence(make, config, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        make("regression", "age", **config)

    assert "\n" not in str(caught.value)


def test_features_without_the_pooled_vector_are_refused(make):
    import zoo

    with pytest.raises(CapabilityError, match="needs the pooled vector"):
        make("regression")({"main": zoo.Features()})


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [{}, {"loss": "huber", "bounds": [0.0, 1.0], "norm": True, "hidden": 8}, {"loss": "mae", "standardize": False}],
    ids=["linear", "perceptron", "plain"],
)
def test_regressions_conform(config):
    check_head({"type": "regression", "name": "age", **config})
