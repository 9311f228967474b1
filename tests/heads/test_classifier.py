"""The classifier against closed forms, numpy and scikit-learn."""

import json

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from sklearn.utils.class_weight import compute_class_weight

import zoo
from zoo.errors import CapabilityError, ConfigError, DataError, UnknownName
from zoo.spec import HeadSpec
from zoo.testing import check_head
from zoo_heads.classifier import Classifier

CLASSES = ["cat", "cow", "dog"]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def log_softmax(logits):
    logits = logits.numpy()
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def measured(task, output, target, parts=3):
    """Feed the metrics batch by batch."""
    metrics = task.metrics()
    for rows in torch.arange(len(output)).chunk(parts):
        task.update(metrics, output[rows], target[rows])
    return {name: float(value) for name, value in metrics.compute().items()}


# --- one label: the loss


def test_the_loss_is_the_mean_negative_log_probability_of_the_true_class(make):
    task, logits = make("classifier", classes=CLASSES), draw(5, 3)
    labels = ["dog", "cat", "cat", "cow", "dog"]

    loss = task.loss(logits, task.encode(labels))

    expected = -log_softmax(logits)[np.arange(5), [CLASSES.index(label) for label in labels]].mean()
    assert loss.item() == pytest.approx(expected)


def test_class_weights_weigh_each_sample_by_its_class_and_divide_by_their_sum(make):
    task, logits = make("classifier", classes=CLASSES, class_weights=[1.0, 5.0, 0.5]).double(), draw(4, 3)
    target = np.array([1, 0, 2, 2])

    loss = task.loss(logits, torch.tensor(target))

    weights = np.array([1.0, 5.0, 0.5])[target]
    expected = -(weights * log_softmax(logits)[np.arange(4), target]).sum() / weights.sum()
    assert loss.item() == pytest.approx(expected)


def test_label_smoothing_spreads_its_share_over_all_classes(make):
    task, logits = make("classifier", classes=CLASSES, label_smoothing=0.3), draw(4, 3)
    target = np.array([1, 0, 2, 2])

    loss = task.loss(logits, torch.tensor(target))

    soft = np.full((4, 3), 0.1) + 0.7 * np.eye(3)[target]
    assert loss.item() == pytest.approx(-(soft * log_softmax(logits)).sum(axis=1).mean())


def test_a_sample_without_a_label_adds_nothing_to_the_loss(make):
    task, logits = (
        make("classifier", classes=CLASSES, label_smoothing=0.1, class_weights=[1, 2, 3]).double(),
        draw(4, 3),
    )

    loss = task.loss(logits, task.encode(["dog", None, "cow", None]))

    assert loss.item() == pytest.approx(task.loss(logits[[0, 2]], task.encode(["dog", "cow"])).item())


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_batch_without_any_label_has_a_loss_of_zero_that_reaches_every_parameter(make, features, multi_label):
    task = make("classifier", classes=CLASSES, multi_label=multi_label, class_weights="balanced", hidden=4, norm=True)

    loss = task.loss(task(features(2))["kind"], task.encode([None, None]))
    loss.backward()

    assert loss.item() == 0
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in task.parameters())


def test_a_task_without_an_entry_in_the_targets_has_a_loss_of_zero(make, features):
    task = make("classifier", classes=CLASSES)
    outputs = task(features(2))

    loss = task.losses(outputs, {})["kind"]

    assert loss.item() == 0
    assert loss.requires_grad


def test_the_weight_of_the_task_multiplies_its_loss(make, features):
    one, three = make("classifier", classes=CLASSES), make("classifier", classes=CLASSES, weight=3.0)
    targets = {"kind": one.encode(["cat", "dog"])}

    losses = [task.losses(task(features(2)), targets)["kind"].item() for task in (one, three)]

    assert losses[1] == pytest.approx(3 * losses[0])


# --- several labels: the loss


def test_with_several_labels_the_loss_is_the_mean_binary_cross_entropy(make):
    task, logits = make("classifier", classes=CLASSES, multi_label=True), draw(3, 3)

    loss = task.loss(logits, task.encode([("cat", "dog"), (), "cow"]))

    truth = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    chance = 1 / (1 + np.exp(-logits.numpy()))
    assert loss.item() == pytest.approx(-np.where(truth, np.log(chance), np.log(1 - chance)).mean())


def test_with_several_labels_class_weights_weigh_the_positives_and_smoothing_goes_half_way(make):
    config = {"multi_label": True, "class_weights": [1.0, 4.0, 0.5], "label_smoothing": 0.2}
    task, logits = make("classifier", classes=CLASSES, **config).double(), draw(3, 3)

    loss = task.loss(logits, task.encode([("cat", "dog"), (), "cow"]))

    truth = 0.8 * np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]]) + 0.1
    chance = 1 / (1 + np.exp(-logits.numpy()))
    expected = -(np.array([1.0, 4.0, 0.5]) * truth * np.log(chance) + (1 - truth) * np.log(1 - chance)).mean()
    assert loss.item() == pytest.approx(expected)


def test_with_several_labels_a_missing_one_is_not_the_same_as_none(make):
    task, logits = make("classifier", classes=CLASSES, multi_label=True), draw(2, 3)

    missing = task.loss(logits, task.encode([("cat",), None]))
    empty = task.loss(logits, task.encode([("cat",), ()]))

    assert missing.item() == pytest.approx(task.loss(logits[:1], task.encode([("cat",)])).item())
    assert missing.item() != pytest.approx(empty.item())


# --- balanced weights


def test_balanced_weights_are_those_of_scikit_learn(make):
    task = make("classifier", classes=CLASSES, class_weights="balanced")
    labels = ["cat"] * 7 + ["cow"] * 2 + ["dog"] * 5

    task.prepare([*labels, None, None])

    expected = compute_class_weight("balanced", classes=np.array(CLASSES), y=np.array(labels))
    np.testing.assert_allclose(task.get_buffer("class_weights"), expected, rtol=1e-6)


def test_balanced_weights_of_several_labels_are_negatives_over_positives(make):
    task = make("classifier", classes=CLASSES, class_weights="balanced", multi_label=True)

    task.prepare([("cat",), ("cat", "cow"), ("cat",), (), None])

    assert task.get_buffer("class_weights").tolist() == pytest.approx([1 / 3, 3.0, 3.0])  # no dog: as if there were one


def test_weights_that_the_user_gave_are_not_learnt(make):
    task = make("classifier", classes=CLASSES, class_weights=[1, 2, 3])

    task.prepare(["cat", "cat", "cow"])

    assert task.get_buffer("class_weights").tolist() == [1, 2, 3]


# --- metrics


def test_metrics_equal_scikit_learns_on_data_with_gaps(make):
    task, logits = make("classifier", classes=CLASSES), draw(60, 3).float()
    truth = np.random.default_rng(0).integers(0, 3, 60)
    known = np.random.default_rng(1).random(60) < 0.7
    labels = [CLASSES[one] if there else None for one, there in zip(truth, known, strict=True)]

    found = measured(task, logits, task.encode(labels))

    guess = logits.argmax(dim=1).numpy()
    assert found == pytest.approx(
        {
            "accuracy": sk.accuracy_score(truth[known], guess[known]),
            "balanced_accuracy": sk.balanced_accuracy_score(truth[known], guess[known]),
            "f1": sk.f1_score(truth[known], guess[known], average="macro"),
        },
        abs=1e-6,
    )


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_balanced_accuracy_is_over_the_classes_that_occur(make):
    task = make("classifier", classes=CLASSES)
    guess, truth = [0, 1, 2, 2], [0, 1, 1, 1]  # a dog is told where there is none

    found = measured(task, 5 * torch.eye(3)[guess], torch.tensor(truth))

    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, guess))
    assert found["f1"] == pytest.approx(sk.f1_score(truth, guess, average="macro"))


def test_metrics_of_several_labels_equal_scikit_learns_on_data_with_gaps(make):
    task, logits = make("classifier", classes=CLASSES, multi_label=True, threshold=0.3), draw(60, 3).float()
    rng = np.random.default_rng(0)
    truth, known = rng.random((60, 3)) < 0.4, rng.random(60) < 0.7
    labels = [tuple(np.array(CLASSES)[row]) if there else None for row, there in zip(truth, known, strict=True)]

    found = measured(task, logits, task.encode(labels))

    chance = logits.sigmoid().numpy()[known]
    told = np.array([[name in one.labels for name in CLASSES] for one in task.decode(logits)])[known]
    assert found == pytest.approx(
        {
            "average_precision": sk.average_precision_score(truth[known], chance, average="macro"),
            "f1": sk.f1_score(truth[known], told, average="macro"),
            "exact_match": sk.accuracy_score(truth[known], told),
        },
        abs=1e-6,
    )


def test_average_precision_is_over_the_classes_that_occur(make):
    task, logits = make("classifier", classes=CLASSES, multi_label=True), draw(8, 3).float()
    labels = [("cat",), ("cow",), (), ("cat", "cow"), ("cat",), (), ("cow",), ()]

    found = measured(task, logits, task.encode(labels))

    truth = task.encode(labels).numpy()[:, :2]
    assert found["average_precision"] == pytest.approx(
        sk.average_precision_score(truth, logits.sigmoid().numpy()[:, :2]), abs=1e-6
    )


def test_average_precision_without_any_positive_is_zero(make):
    task = make("classifier", classes=CLASSES, multi_label=True)

    found = measured(task, draw(4, 3).float(), task.encode([(), (), (), ()]))

    assert found["average_precision"] == 0


@pytest.mark.parametrize(("multi_label", "best"), [(False, "balanced_accuracy"), (True, "average_precision")])
def test_the_best_epoch_is_chosen_by_what_class_imbalance_does_not_fool(make, multi_label, best):
    task = make("classifier", classes=CLASSES, multi_label=multi_label)

    assert task.best_metric == (best, True)
    assert all(metric.higher_is_better for metric in task.metrics().values())


# --- decoding


def test_decoding_gives_the_most_likely_class_and_probabilities_that_sum_to_one(make):
    task, logits = make("classifier", classes=CLASSES), draw(20, 3).float()

    decoded = task.decode(logits)

    expected = torch.softmax(logits, dim=1)
    for one, row in zip(decoded, expected, strict=True):
        assert one.label == CLASSES[int(row.argmax())]
        assert one.probability == max(one.probabilities.values())
        assert list(one.probabilities) == CLASSES
        assert list(one.probabilities.values()) == pytest.approx(row.tolist())
        assert sum(one.probabilities.values()) == pytest.approx(1)
        assert json.loads(json.dumps(one.as_json()))["label"] == one.label


def test_decoding_several_labels_tells_those_that_reach_the_threshold(make):
    task = make("classifier", classes=CLASSES, multi_label=True, threshold=0.75)
    logits = torch.logit(torch.tensor([[0.9, 0.7, 0.76], [0.1, 0.2, 0.3]]))

    told = task.decode(logits)

    assert [one.labels for one in told] == [("cat", "dog"), ()]
    assert list(told[0].probabilities.values()) == pytest.approx([0.9, 0.7, 0.76])
    assert told[1].as_json()["labels"] == []


def test_decoding_does_not_overflow(make):
    task = make("classifier", classes=CLASSES)

    (one,) = task.decode(torch.tensor([[1e4, -1e4, 0.0]], dtype=torch.bfloat16))

    assert (one.label, one.probability) == ("cat", 1.0)


# --- classes from the labels


@pytest.mark.parametrize(
    ("labels", "classes", "several"),
    [
        (("dog", None, "cat", "dog"), ["cat", "dog"], False),
        ((10, 9, 100, None, -1), ["-1", "9", "10", "100"], False),
        (("b", "10", "9", "a"), ["9", "10", "a", "b"], False),
        ((True, False, None), ["false", "true"], False),
        ((1.0, 2.0), ["1", "2"], False),
        ((("red", "big"), (), None, ("red",)), ["big", "red"], True),
        ((("only",), ()), ["only"], True),
    ],
)
def test_classes_are_taken_from_the_labels_in_an_order_a_reader_expects(context, labels, classes, several):
    spec = Classifier.complete(HeadSpec(type="classifier", name="kind"), {"kind": labels}, context)

    assert spec.config["classes"] == classes
    assert spec.config.get("multi_label", False) is several


def test_classes_that_were_given_stay_as_they_are(context):
    spec = HeadSpec(type="classifier", name="kind", config={"classes": ["z", "a"]})

    assert Classifier.complete(spec, {"kind": ("a", "b")}, context) is spec


def test_classes_are_read_from_the_column_that_the_head_names(context):
    spec = HeadSpec(type="classifier", name="kind", config={"target": "species"})

    completed = Classifier.complete(spec, {"kind": ("x", "y"), "species": ("a", "b")}, context)

    assert completed.config["classes"] == ["a", "b"]


def test_a_column_that_is_not_there_is_answered_with_the_nearest(context):
    with pytest.raises(UnknownName, match="finds no label column 'kind'; there are kinds"):
        Classifier.complete(HeadSpec(type="classifier", name="kind"), {"kinds": ("a", "b"), "other": ("x",)}, context)


def test_a_column_of_one_class_is_refused(context):
    with pytest.raises(DataError, match="has 1 class; a classifier needs 2 or more"):
        Classifier.complete(HeadSpec(type="classifier", name="kind"), {"kind": ("a", "a", None)}, context)


def test_numbers_that_are_not_whole_are_no_classes(context):
    with pytest.raises(DataError, match=r"got 0.5; use a regression head"):
        Classifier.complete(HeadSpec(type="classifier", name="kind"), {"kind": (0.5, 1.0)}, context)


# --- labels


def test_labels_become_indices_whatever_their_type(make):
    numbers, answers = make("classifier", classes=["1", "2"]), make("classifier", classes=["false", "true"])

    assert numbers.encode([2, 1.0, None, "2"]).tolist() == [1, 0, -100, 1]
    assert answers.encode([True, False]).tolist() == [1, 0]


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_label_outside_the_classes_is_named_with_the_nearest(make, multi_label):
    task = make("classifier", classes=["setosa", "versicolor", "virginica"], multi_label=multi_label)

    with pytest.raises(
        DataError, match="The head 'kind' knows no class 'virginca'; its classes are virginica"
    ) as caught:
        task.encode(["setosa", "virginca"])

    assert "\n" not in str(caught.value)


def test_a_label_unlike_any_class_is_answered_with_the_classes(make):
    with pytest.raises(DataError, match="knows no class 'xyz'; its classes are cat, cow, dog"):
        make("classifier", classes=CLASSES).encode(["xyz"])


def test_several_labels_for_a_classifier_of_one_are_refused(make):
    with pytest.raises(DataError, match=r"takes one label a sample.*set multi_label=True"):
        make("classifier", classes=CLASSES).encode([("cat", "dog")])


# --- settings


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({}, "must know its classes"),
        ({"classes": ["a"]}, "classes must be 2 or more"),
        ({"classes": [], "multi_label": True}, "classes must be 1 or more"),
        ({"classes": ["a", "b", "a"]}, "classes must differ, got 'a' twice"),
        ({"classes": [1, 2]}, "should be a valid string"),
        ({"classes": "ab"}, "classes"),
        ({"classes": ["a", "b"], "threshold": 0.0}, r"threshold must be in \(0, 1\)"),
        ({"classes": ["a", "b"], "threshold": 1}, r"threshold must be in \(0, 1\)"),
        ({"classes": ["a", "b"], "label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\)"),
        ({"classes": ["a", "b"], "label_smoothing": -0.1}, "label_smoothing"),
        ({"classes": ["a", "b"], "class_weights": [1.0]}, "one factor for each of the 2 classes, got 1"),
        ({"classes": ["a", "b"], "class_weights": [1.0, -1.0]}, "class_weights must be above 0"),
        ({"classes": ["a", "b"], "class_weights": [1.0, 0.0]}, "class_weights must be above 0"),
        ({"classes": ["a", "b"], "class_weights": "even"}, "class_weights"),
        ({"classes": ["a", "b"], "hidden": 0}, "hidden must be 1 or more"),
        ({"classes": ["a", "b"], "hidden": 2.5}, "hidden"),
        ({"classes": ["a", "b"], "dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"classes": ["a", "b"], "dropout": -0.1}, "dropout"),
        ({"classes": ["a", "b"], "weight": -1.0}, "weight must be 0 or more"),
        ({"classes": ["a", "b"], "weight": float("nan")}, "JSON|weight"),
        ({"classes": ["a", "b"], "weight": float("inf")}, "JSON|weight"),
        ({"classes": ["a", "b"], "multi_label": "yes"}, "multi_label"),
        ({"classes": ["a", "b"], "stream": "flow"}, "reads the stream 'flow'; the model has main"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_sentence(make, config, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        make("classifier", **config)

    assert "\n" not in str(caught.value)


def test_an_unknown_setting_is_named_with_the_nearest():
    with pytest.raises(UnknownName, match="has no option 'clases'; it takes classes"):
        zoo.head("classifier", clases=["a", "b"])


def test_an_unknown_head_is_named_with_the_nearest():
    with pytest.raises(UnknownName, match=r"No head is called 'clasifier'.*Did you mean 'classifier'"):
        zoo.head("clasifier")


def test_features_without_the_pooled_vector_are_refused(make):
    with pytest.raises(CapabilityError, match="needs the pooled vector"):
        make("classifier", classes=CLASSES)({"main": zoo.Features()})


# --- the layers


def test_the_default_is_one_linear_layer(make, features):
    task, given = make("classifier", classes=CLASSES), features(4)
    weight, bias = task.state_dict()["layers.0.weight"], task.state_dict()["layers.0.bias"]

    torch.testing.assert_close(task(given)["kind"], given["main"].pooled @ weight.T + bias)


def test_norm_hidden_and_dropout_stand_in_that_order(make):
    task = make("classifier", classes=CLASSES, norm=True, hidden=4, dropout=0.5)

    assert [type(layer).__name__ for layer in task.layers] == ["LayerNorm", "Linear", "GELU", "Dropout", "Linear"]


@pytest.mark.parametrize(
    "config",
    [
        {"classes": CLASSES},
        {"classes": CLASSES, "class_weights": "balanced", "label_smoothing": 0.1, "norm": True, "hidden": 8},
        {"classes": CLASSES, "multi_label": True, "threshold": 0.4, "class_weights": [1.0, 2.0, 3.0]},
        {"classes": ["only"], "multi_label": True, "norm": True},
    ],
    ids=["linear", "perceptron", "several labels", "one of several"],
)
def test_classifiers_conform(config):
    check_head({"type": "classifier", "name": "species", **config})


@pytest.mark.slow
def test_a_classifier_conforms_on_a_transformer():
    check_head({"type": "classifier", "classes": CLASSES}, "timm:test_vit")
