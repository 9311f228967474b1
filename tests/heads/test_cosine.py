"""The cosine option of the classifier, against the formula in numpy."""

import numpy as np
import pytest
import torch

from zoo.errors import ConfigError
from zoo.testing import check_head

CLASSES = ["cat", "cow", "dog"]


def cosines(given, weights):
    given, weights = given.detach().numpy(), weights.detach().numpy()
    return given @ weights.T / np.outer(np.linalg.norm(given, axis=1), np.linalg.norm(weights, axis=1))


@pytest.mark.parametrize(("config", "scale"), [({}, 10.0), ({"scale": 3.0}, 3.0), ({"fixed_scale": True}, 10.0)])
def test_the_logits_are_scaled_cosines_to_a_weight_a_class(make, features, config, scale):
    task, given = make("classifier", classes=CLASSES, cosine=True, **config), features(4)

    logits = task(given)["kind"]

    expected = scale * cosines(given["main"].pooled, task.layers[0].weight)
    np.testing.assert_allclose(logits.detach().numpy(), expected, rtol=1e-5)


def test_neither_the_length_of_a_vector_nor_that_of_a_weight_matters(make, features):
    task, given = make("classifier", classes=CLASSES, cosine=True), features(4)
    before = task(given)["kind"]

    with torch.no_grad():
        task.layers[0].weight.mul_(torch.tensor([[2.0], [7.0], [0.1]]))
    given["main"].pooled = given["main"].pooled * 5

    torch.testing.assert_close(task(given)["kind"], before)


def test_the_scale_is_learnt_unless_it_is_fixed(make, features):
    learnt, fixed = (make("classifier", classes=CLASSES, cosine=True, fixed_scale=one) for one in (False, True))
    for task in (learnt, fixed):
        task.loss(task(features(3))["kind"], task.encode(CLASSES)).backward()

    assert learnt.layers[0].scale.grad.abs() > 0
    assert "layers.0.scale" in fixed.state_dict()
    assert "layers.0.scale" not in dict(fixed.named_parameters())


def test_a_cosine_classifier_has_a_perceptron_in_front_where_one_is_asked_for(make):
    task = make("classifier", classes=CLASSES, cosine=True, norm=True, hidden=4, dropout=0.5)

    assert [type(layer).__name__ for layer in task.layers] == ["LayerNorm", "Linear", "GELU", "Dropout", "Cosine"]
    assert task.layers[-1].weight.shape == (3, 4)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"scale": 5.0}, "scale and fixed_scale are of a cosine classifier; set cosine=True"),
        ({"fixed_scale": True}, "set cosine=True or leave them out"),
        ({"cosine": True, "scale": 0.0}, "scale must be above 0, got 0.0"),
        ({"cosine": True, "scale": -1.0}, "scale must be above 0"),
    ],
)
def test_a_scale_that_cannot_be_used_is_one_sentence(make, config, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        make("classifier", classes=CLASSES, **config)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", [{}, {"fixed_scale": True, "scale": 4.0, "hidden": 8, "multi_label": True}])
def test_cosine_classifiers_conform(config):
    check_head({"type": "classifier", "classes": CLASSES, "cosine": True, **config})
