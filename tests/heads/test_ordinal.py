"""The ordinal head against the formula of its paper in numpy, and against scikit-learn."""

import json

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from zoo.errors import ConfigError, DataError
from zoo.spec import HeadSpec
from zoo.testing import check_head
from zoo_heads.ordinal import Ordinal

GRADES = ["low", "fair", "good", "best"]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


# --- loss


def test_the_loss_is_the_sum_of_a_binary_cross_entropy_for_each_threshold(make):
    task, logits = make("ordinal", classes=GRADES), draw(5, 3)
    ranks = np.array([0, 3, 1, 2, 2])

    loss = task.loss(logits, task.encode([GRADES[rank] for rank in ranks]))

    above, chance = ranks[:, None] > np.arange(3), sigmoid(logits.numpy())
    expected = -np.where(above, np.log(chance), np.log(1 - chance)).sum(axis=1).mean()
    assert loss.item() == pytest.approx(expected)


def test_a_sample_without_a_label_adds_nothing_and_a_batch_without_any_gives_a_connected_zero(make, features):
    task, logits = make("ordinal", classes=GRADES), draw(3, 3)

    assert task.loss(logits, task.encode(["low", None, "best"])).item() == pytest.approx(
        task.loss(logits[[0, 2]], task.encode(["low", "best"])).item()
    )
    nothing = task.loss(task(features(2))["kind"], task.encode([None, None]))
    nothing.backward()
    assert nothing.item() == 0
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in task.parameters())


# --- output


def test_the_logits_are_one_score_plus_the_thresholds(make, features):
    task, given = make("ordinal", classes=GRADES), features(5)

    logits = task(given)["kind"]

    score = given["main"].pooled @ task.layers[0].weight.T
    torch.testing.assert_close(logits, score + task.thresholds())
    assert task.layers[0].bias is None


def test_all_ranks_are_equally_likely_where_training_begins(make):
    task = make("ordinal", classes=GRADES)

    above = task.thresholds().sigmoid()

    torch.testing.assert_close(above, torch.tensor([0.75, 0.5, 0.25]))


def test_the_thresholds_are_in_order_whatever_the_parameters_are(make, features):
    task = make("ordinal", classes=[str(n) for n in range(9)])
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.copy_(draw(*parameter.shape, seed=3) * 4)

    logits = task(features(20))["kind"]
    predictions = task.decode(logits)

    assert bool((logits.diff(dim=1) <= 0).all())
    assert all(min(one.probabilities.values()) >= 0 for one in predictions)
    assert all(sum(one.probabilities.values()) == pytest.approx(1) for one in predictions)


def test_two_classes_are_a_logistic_regression(make, features):
    task, logits = make("ordinal", classes=["no", "yes"]), draw(4, 1)
    target = torch.tensor([0, 1, 1, 0])

    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], target.double())
    torch.testing.assert_close(task.loss(logits, target), expected)


# --- decoding and metrics


def test_a_prediction_has_the_class_at_the_thresholds_passed_and_the_expected_rank(make):
    task = make("ordinal", classes=GRADES)
    above = np.array([[0.9, 0.6, 0.2], [0.4, 0.3, 0.1]])

    first, second = task.decode(torch.tensor(np.log(above / (1 - above))))

    assert (first.label, first.rank, second.label, second.rank) == ("good", 2, "low", 0)
    assert first.expected_rank == pytest.approx(0.9 + 0.6 + 0.2)
    assert list(first.probabilities) == GRADES
    assert list(first.probabilities.values()) == pytest.approx([0.1, 0.3, 0.4, 0.2])
    assert first.expected_rank == pytest.approx(sum(k * p for k, p in enumerate(first.probabilities.values())))
    json.dumps(first.as_json(), allow_nan=False)


def test_the_metrics_are_those_of_scikit_learn(make):
    task, logits = make("ordinal", classes=GRADES), draw(60, 3).sort(dim=1, descending=True).values
    target = torch.randint(0, 4, (60,), generator=torch.Generator().manual_seed(1))
    target[::7] = -100
    metrics = task.metrics()
    for rows in torch.arange(60).chunk(4):
        task.update(metrics, logits[rows], target[rows])
    found = {name: float(value) for name, value in metrics.compute().items()}

    known = (target != -100).numpy()
    truth, ranks = target.numpy()[known], (logits > 0).sum(dim=1).numpy()[known]
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(truth, ranks))
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(truth, ranks))
    assert found["kappa"] == pytest.approx(sk.cohen_kappa_score(truth, ranks, weights="quadratic"))
    assert task.best_metric == ("mae", False)


def test_kappa_of_a_single_class_is_zero(make):
    task = make("ordinal", classes=GRADES)
    metrics = task.metrics()

    task.update(metrics, torch.full((3, 3), -1.0), torch.zeros(3, dtype=torch.int64))

    assert float(metrics.compute()["kappa"]) == 0
    assert float(metrics.compute()["mae"]) == 0


# --- classes


def test_whole_numbers_are_put_in_order_by_value(context):
    spec = Ordinal.complete(HeadSpec(type="ordinal", name="kind"), {"kind": (10, 9, None, -1, 100.0)}, context)

    assert spec.config["classes"] == ["-1", "9", "10", "100"]


@pytest.mark.parametrize("labels", [("low", "high"), (True, False), (1, "two")])
def test_the_order_of_texts_is_the_users_to_say(context, labels):
    with pytest.raises(DataError, match=r"cannot know the order of '.*give classes=\[…\] from the lowest") as caught:
        Ordinal.complete(HeadSpec(type="ordinal", name="kind"), {"kind": labels}, context)

    assert "\n" not in str(caught.value)


def test_classes_that_were_given_keep_their_order(context):
    spec = HeadSpec(type="ordinal", name="kind", config={"classes": GRADES})

    assert Ordinal.complete(spec, {"kind": ("best", "low")}, context) is spec


def test_lists_of_labels_are_refused(make, context):
    with pytest.raises(DataError, match=r"has lists of labels; the head 'kind' \(ordinal\) takes one"):
        Ordinal.complete(HeadSpec(type="ordinal", name="kind"), {"kind": (("1", "2"), ("1",))}, context)
    with pytest.raises(DataError, match="takes one label a sample"):
        make("ordinal", classes=GRADES).encode([("low", "best")])


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({}, r"The head 'kind' \(ordinal\) must know its classes"),
        ({"classes": ["one"]}, "classes must be 2 or more"),
        ({"classes": ["a", "a"]}, "classes must differ, got 'a' twice"),
        ({"classes": GRADES, "hidden": 0}, "hidden must be 1 or more"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_sentence(make, config, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make("ordinal", **config)


@pytest.mark.slow
@pytest.mark.parametrize("config", [{"classes": GRADES}, {"classes": ["no", "yes"], "norm": True, "hidden": 8}])
def test_ordinal_heads_conform(config):
    check_head({"type": "ordinal", "name": "grade", **config})
