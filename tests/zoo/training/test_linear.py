"""Linear heads: standardised features change nothing of what they are, and L-BFGS is logistic regression."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn

import zoo
from zoo.contracts.features import Features
from zoo.data import Column, Table, TensorSample
from zoo.errors import ConfigError, UnknownName
from zoo.preprocessing import Preprocessing
from zoo.training.linear.layers import first_layers, scale_of, standardised

SOLVE = {"method": "feature_extraction", "solver": "lbfgs", "device": "cpu", "validation": 0.0, "seed": 0}
ROWS = 60


class Vectors(nn.Module):
    """Gives the means of 3 channels and their products: 12 dimensions of very different means and spreads."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 2, 2)

    def forward(self, x):
        scale = torch.tensor([10.0 ** (n % 4 - 3) for n in range(12)])
        return self.stem(x).mean((2, 3)) * scale + scale


@pytest.fixture
def build():
    def make(*heads):
        torch.manual_seed(0)
        wrapped = zoo.wrap(
            Vectors(), preprocessing=Preprocessing(size=(8, 8), resize=None), name="vectors", stages={"s1": "stem"}
        )
        return zoo.build(wrapped, list(heads), seed=0)

    return make


def head(**more):
    return {"type": "classifier", "name": "kind", "classes": ["a", "b", "c"], **more}


@pytest.fixture
def table():
    draw = torch.Generator().manual_seed(1)
    kinds = [n % 3 for n in range(ROWS)]
    pictures = [torch.randn(3, 8, 8, generator=draw) + 0.3 * torch.eye(3)[kind][:, None, None] for kind in kinds]

    def make(**columns):
        columns = columns or {"kind": ("text", ["abc"[kind] for kind in kinds])}
        made = {name: Column(name, form, tuple(values)) for name, (form, values) in columns.items()}
        samples = tuple(TensorSample(str(n), picture) for n, picture in enumerate(pictures))
        return Table("made-up vectors", {"image": samples}, made)

    return make


def features(model, table):
    with torch.no_grad():
        found = model.backbones["main"](torch.stack([sample.open() for sample in table.inputs["image"]])).pooled
    return (found - found.mean(0)) / found.std(0, correction=0)


def probabilities(model, table):
    images = torch.stack([sample.open() for sample in table.inputs["image"]])
    with torch.no_grad():
        return model.eval()(images)["kind"].softmax(1).numpy()


def test_solved_heads_are_scikit_learns_logistic_regression(build, table):
    model, decay = build(head()), 0.05
    known = table()
    history = zoo.fit(model, known, **SOLVE, weight_decay=decay)

    x, y = features(model, known).double().numpy(), [n % 3 for n in range(ROWS)]
    reference = LogisticRegression(C=1 / (decay * ROWS), tol=1e-8, max_iter=5000).fit(x, y)

    np.testing.assert_allclose(probabilities(model, known), reference.predict_proba(x), atol=2e-3)
    assert len(history.epochs) == history.best_epoch == 1


def test_two_classes_with_a_weight_each_are_penalised_half(build, table):
    labels = ["ab"[n % 3 == 0] for n in range(ROWS)]
    known = table(kind=("text", labels))
    model, decay = build({"type": "classifier", "name": "kind", "classes": ["a", "b"]}), 0.05
    zoo.fit(model, known, **SOLVE, weight_decay=decay)

    x = features(model, known).double().numpy()
    reference = LogisticRegression(C=2 / (decay * ROWS), tol=1e-8, max_iter=5000).fit(x, labels)

    np.testing.assert_allclose(probabilities(model, known), reference.predict_proba(x), atol=2e-3)


def test_class_weights_and_missing_labels_are_those_of_the_loss(build, table):
    labels = ["abc"[n % 3] if n % 5 else None for n in range(ROWS)]
    known = table(kind=("text", labels))
    model, decay = build(head(class_weights=[1.0, 2.0, 5.0])), 0.05
    zoo.fit(model, known, **SOLVE, weight_decay=decay)
    rows = [n for n, label in enumerate(labels) if label is not None]
    weights = np.array([(1.0, 2.0, 5.0)[n % 3] for n in rows])

    scaled = features(model, known)
    x, y = scaled[rows].double().numpy(), [n % 3 for n in rows]
    reference = LogisticRegression(C=1 / (decay * weights.sum()), tol=1e-8, max_iter=5000).fit(x, y, weights)

    expected = reference.predict_proba(scaled.double().numpy())
    np.testing.assert_allclose(probabilities(model, known), expected, atol=2e-3)


def test_a_solved_regression_is_ridge_regression(build, table):
    values = [float(n % 3) + 0.1 * n for n in range(ROWS)]
    known = table(age=("number", values))
    model, decay = build({"type": "regression", "name": "age"}), 0.05
    zoo.fit(model, known, **SOLVE, weight_decay=decay)

    x, y = features(model, known).double().numpy(), np.array(values)
    standard = (y - y.mean()) / y.std()
    expected = Ridge(alpha=decay * ROWS / 2).fit(x, standard).predict(x) * y.std() + y.mean()

    images = torch.stack([sample.open() for sample in known.inputs["image"]])
    np.testing.assert_allclose(model(images)["age"].detach().numpy(), expected, atol=5e-3)


def test_several_tasks_label_smoothing_and_several_labels_are_solved_at_once(build, table):
    tags = [("x",) if n % 3 == 0 else ("x", "y") if n % 3 == 1 else () for n in range(ROWS)]
    known = table(
        kind=("text", ["abc"[n % 3] for n in range(ROWS)]),
        tags=("list", tags),
        age=("number", [float(n % 3) for n in range(ROWS)]),
    )
    tasks = [
        head(label_smoothing=0.1),
        {"type": "classifier", "name": "tags", "classes": ["x", "y"], "multi_label": True},
        {"type": "regression", "name": "age"},
    ]
    together = build({"type": "multi_task", "name": "all", "heads": tasks})
    alone = build(head(label_smoothing=0.1))
    zoo.fit(together, known, **SOLVE, weight_decay=0.05)
    zoo.fit(alone, known, **SOLVE, weight_decay=0.05)

    np.testing.assert_allclose(probabilities(together, known), probabilities(alone, known), atol=5e-3)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"norm": True}, "not linear in its parameters"),
        ({"hidden": 4}, "not linear in its parameters"),
        ({"dropout": 0.5}, "something else in training, such as dropout"),
        ({"cosine": True}, "not linear in its parameters"),
    ],
)
def test_heads_that_are_not_linear_are_refused(build, table, settings, reason, state, same):
    model = build(head(**settings))
    before = state(model)

    with pytest.raises(ConfigError, match=reason):
        zoo.fit(model, table(), **SOLVE)

    assert same(state(model), before)


def test_methods_that_train_a_backbone_are_refused(build, table):
    with pytest.raises(ConfigError, match="this method trains a backbone, too"):
        zoo.fit(build(head()), table(), method="fine_tuning", solver="lbfgs", device="cpu")


def test_an_unknown_solver_is_refused(build, table):
    with pytest.raises((ConfigError, UnknownName), match="sgd or lbfgs"):
        zoo.fit(build(head()), table(), method="feature_extraction", solver="newton", device="cpu")


def test_standardised_layers_compute_what_they_did_before_meanwhile_and_after(build, table):
    model = build(head())
    model.eval()
    with torch.no_grad():
        given = model.features(torch.stack([sample.open() for sample in table().inputs["image"]]))
        expected, weight = model.score(given)["kind"], model.heads["kind"].layers[0].weight.clone()
        (layer,) = first_layers(model, given)

        with standardised([layer], {"main": scale_of(given["main"].pooled)}):
            seen = []
            layer.layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
            torch.testing.assert_close(model.score(given)["kind"], expected, rtol=1e-4, atol=1e-4)

        torch.testing.assert_close(model.score(given)["kind"], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(layer.layer.weight, weight)
    torch.testing.assert_close(seen[0].mean(0), torch.zeros(12), atol=1e-4, rtol=0)


def test_layers_behind_something_else_are_left_alone(build):
    model = build(head(norm=True), head(name="deep", hidden=4), head(name="cos", cosine=True))

    found = first_layers(model, {"main": Features(pooled=torch.randn(4, 12))})

    assert [one.layer for one in found] == [model.heads["deep"].layers[0]]


def test_a_dimension_that_does_not_vary_is_not_divided_by_nothing():
    scale = scale_of(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))

    assert scale.std.tolist() == [1.0, 1.0]
    assert scale_of(torch.ones(3, 2)).std.tolist() == [1.0, 1.0]


@pytest.mark.slow
def test_standardised_features_let_a_head_learn_faster(build, table, monkeypatch):
    from contextlib import nullcontext

    from zoo.training import fitting

    run = {"method": "feature_extraction", "epochs": 20, "device": "cpu", "validation": 0.0, "batch_size": 10}
    fast, slow = build(head()), build(head())
    first = zoo.fit(fast, table(), **run)
    monkeypatch.setattr(fitting, "on_standardised", lambda *_: nullcontext())
    second = zoo.fit(slow, table(), **run)

    assert first.epochs[-1].train_loss < 0.9 * second.epochs[-1].train_loss
