"""Many outputs to one, beside numpy."""

import numpy as np
import pytest
import torch

from zoo.ensembling.combining import Stack, combined, mixture, stack_inputs


def softmax(values: np.ndarray, axis: int) -> np.ndarray:
    shifted = np.exp(values - values.max(axis=axis, keepdims=True))
    return shifted / shifted.sum(axis=axis, keepdims=True)


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


@pytest.fixture
def outputs() -> torch.Tensor:
    """Four members, six samples, three classes."""
    return torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0)) * 3


def test_the_softmax_of_the_mean_is_the_mean_of_the_softmaxes(outputs):
    found = combined(outputs, "mean", "softmax").softmax(dim=1).numpy()

    np.testing.assert_allclose(found, softmax(outputs.numpy(), 2).mean(axis=0), atol=1e-6)


def test_the_sigmoid_of_the_mean_is_the_mean_of_the_sigmoids(outputs):
    found = combined(outputs, "mean", "sigmoid").sigmoid().numpy()

    np.testing.assert_allclose(found, sigmoid(outputs.numpy()).mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_weights_weigh_probabilities_and_numbers(outputs, activation):
    weights = np.array([0.5, 0.0, 0.3, 0.2])
    act = {"softmax": lambda x: softmax(x, -1), "sigmoid": sigmoid, None: lambda x: x}[activation]

    found = combined(outputs, "weighted", activation, weights=torch.tensor(weights))

    expected = np.tensordot(weights, act(outputs.numpy().astype(float)), axes=1)
    final = found.numpy() if activation is None else act(found.numpy().astype(float))
    np.testing.assert_allclose(final, expected, atol=1e-6)


def test_a_member_of_no_weight_has_no_say_even_where_it_is_not_finite():
    outputs = torch.tensor([[1.0, 2.0], [float("inf"), float("nan")]])

    assert combined(outputs, "weighted", None, weights=torch.tensor([1.0, 0.0])).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_logits_are_averaged_as_they_are(outputs, activation):
    found = combined(outputs, "logits", activation)

    np.testing.assert_allclose(found.numpy(), outputs.numpy().mean(axis=0), atol=1e-6)


def test_maps_of_classes_are_averaged_at_every_pixel():
    outputs = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(1))

    found = combined(outputs, "mean", "softmax").softmax(dim=1).numpy()

    np.testing.assert_allclose(found, softmax(outputs.numpy(), 2).mean(axis=0), atol=1e-6)


def test_the_shares_of_the_votes_are_the_probabilities(outputs):
    found = combined(outputs, "vote", "softmax").softmax(dim=1).numpy()

    votes = np.eye(3)[outputs.numpy().argmax(axis=2)].mean(axis=0)
    np.testing.assert_allclose(found, votes, atol=1e-4)


def test_the_most_votes_win_as_in_scikit_learn(outputs):
    from sklearn.ensemble import VotingClassifier

    class Fixed:
        def __init__(self, told):
            self.told = told

        def predict(self, rows):
            return self.told

    voter = VotingClassifier([(str(n), None) for n in range(3)])
    told = outputs[:3].argmax(dim=2).numpy()
    voter.estimators_, voter.le_ = (
        [Fixed(row) for row in told],
        type("Same", (), {"inverse_transform": lambda _, y: y})(),
    )
    decided = [len(set(column)) < 3 for column in told.T]

    found = combined(outputs[:3], "vote", "softmax").argmax(dim=1).numpy()

    assert any(decided)
    np.testing.assert_array_equal(found[decided], voter.predict(np.zeros((6, 1)))[decided])


def test_a_tie_of_votes_goes_to_the_class_with_the_higher_mean_probability():
    outputs = torch.tensor([[[0.0, 0.1, -9.0]], [[5.0, 0.0, -9.0]]])

    assert combined(outputs, "vote", "softmax").argmax(dim=1).tolist() == [0]
    assert combined(-outputs, "vote", "sigmoid")[0, 0] < 0 < combined(outputs, "vote", "sigmoid")[0, 0]


def test_the_vote_of_numbers_is_the_median():
    outputs = torch.tensor([[1.0], [9.0], [2.0], [3.0]])

    assert combined(outputs, "vote", None).tolist() == [np.median([1, 9, 2, 3])]
    assert combined(outputs[:3], "vote", None).tolist() == [2.0]


def test_a_fresh_stack_is_the_mean_of_the_logits_up_to_a_constant(outputs):
    stack = Stack(4, 3)

    found = combined(outputs, "stacking", "softmax", stack=stack).softmax(dim=1)

    torch.testing.assert_close(found, combined(outputs, "logits", "softmax").softmax(dim=1))


def test_what_a_stack_weighs_is_bounded():
    outputs = torch.tensor([[[100.0, -100.0]]])

    assert stack_inputs(outputs, "softmax").exp().min().item() == pytest.approx(1e-6)
    assert stack_inputs(outputs, "sigmoid").abs().max().sigmoid().item() == pytest.approx(1 - 1e-6, abs=1e-6)


def test_half_precision_is_averaged_in_float32(outputs):
    assert combined(outputs.half(), "mean", "softmax").dtype == torch.float32
    torch.testing.assert_close(mixture(outputs.double(), "softmax").float(), mixture(outputs, "softmax"))
