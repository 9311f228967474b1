"""From evidence to a quadrant, and from a quadrant to a method."""

from dataclasses import replace
from typing import get_args

import pytest
import torch

from zoo.advising.evidence import collect
from zoo.advising.questions import Question
from zoo.advising.rules import ENOUGH, LARGE_CLASS, LARGE_NUMBERS, RULES, SIMILAR, Likeness, Measure, place, rule_of
from zoo.advising.size import Size
from zoo.errors import DataError
from zoo.registry import registry


def drawn(rows: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def evidence():
    """Evidence of features that say much, beside others that say nothing; changed from test to test."""
    target = torch.arange(80) % 2
    question = Question("kind", "classes", ("a", "b"), target, torch.arange(80))
    good = drawn(80, 5, 0) + 2.0 * target[:, None]
    features = {"pretrained": good, "untrained": drawn(80, 5, 1), "pixels": drawn(80, 9, 2)}
    return collect(question, features, column="kind", size=Size(80, 40, 40, 1.0, {}), left_out=(), seed=0)


def at(evidence, *, rows=100, gain=0.0, error=0.05, linear=0.4, kind="classes"):
    held = replace(evidence.pretrained, linear=linear)
    return replace(
        evidence,
        kind=kind,
        size=Size(rows, None, None, None, {}) if kind == "numbers" else Size(3 * rows, rows, rows, 1.0, {}),
        gain=gain,
        gain_error=error,
        separability=(held, *evidence.separability[1:]),
    )


@pytest.mark.slow
def test_evidence_compares_features_with_those_that_need_no_pretraining(evidence):
    assert [one.features for one in evidence.separability] == ["pretrained", "untrained", "pixels"]
    assert evidence.pretrained.linear > 0.8
    assert evidence.gain > SIMILAR
    assert evidence.reference == max(evidence.separability[1:], key=lambda one: one.linear).features
    assert place(evidence).quadrant == "small and similar"


@pytest.mark.parametrize(
    ("rows", "gain", "quadrant", "method"),
    [
        (50, 0.9, "small and similar", "feature_extraction"),
        (900, 0.9, "large and similar", "partial"),
        (900, 0.1, "large and different", "fine_tuning"),
        (50, 0.1, "small and different", "partial"),
    ],
)
def test_size_and_gain_decide_the_quadrant_and_the_quadrant_the_method(evidence, rows, gain, quadrant, method):
    placed = place(at(evidence, rows=rows, gain=gain))

    assert placed.quadrant == quadrant
    assert rule_of(placed).method == method
    assert placed.neighbours() == ()


def test_near_a_threshold_the_neighbour_is_named(evidence):
    a_little_short = place(at(evidence, rows=LARGE_CLASS - 20, gain=0.1))
    a_little_over = place(at(evidence, rows=LARGE_CLASS + 20, gain=0.9))
    within_an_error = place(at(evidence, rows=50, gain=SIMILAR - 0.1, error=0.15))

    assert a_little_short.neighbours() == (("large", "different"),)
    assert a_little_over.neighbours() == (("small", "similar"),)
    assert within_an_error.neighbours() == (("small", "similar"),)
    assert place(at(evidence, rows=50, gain=SIMILAR - 0.1, error=0.05)).neighbours() == ()


def test_features_with_hardly_an_error_are_similar_whatever_they_gain(evidence):
    easy = at(evidence, gain=0.0, linear=ENOUGH)

    assert place(easy).similarity == "similar"
    assert not place(easy).near_similarity


def test_numbers_are_large_by_their_rows(evidence):
    assert place(at(evidence, kind="numbers", rows=LARGE_NUMBERS)).size == "large"
    assert place(at(evidence, kind="numbers", rows=LARGE_NUMBERS - 1)).size == "small"


def test_every_quadrant_has_a_rule_whose_method_takes_its_settings():
    assert set(RULES) == {(size, likeness) for size in get_args(Measure) for likeness in get_args(Likeness)}
    for rule in RULES.values():
        registry().method_class(rule.method).with_settings(rule.method, rule.own)


def test_few_rows_get_more_epochs_within_bounds():
    budget = rule_of(place_like("small", "different")).budget

    assert budget.epochs(4) == budget.most
    assert budget.epochs(10**6) == budget.least
    assert budget.epochs(400) == 20  # 320 to learn from are 10 steps an epoch, and 200 are wanted


def place_like(size, likeness):
    from zoo.advising.rules import Placement

    return Placement(size, likeness, near_size=False, near_similarity=False)


def test_features_that_say_nothing_at_all_are_refused():
    question = Question("kind", "classes", ("a", "b"), torch.arange(20) % 2, torch.arange(20))
    size = Size(20, 10, 10, 1.0, {})

    with pytest.raises(DataError, match="not finite or the same for all rows"):
        collect(question, {"pretrained": torch.ones(20, 3)}, column="kind", size=size, left_out=(), seed=0)
    with pytest.raises(DataError, match="no features without pretraining"):
        collect(question, {"pretrained": drawn(20, 3, 0)}, column="kind", size=size, left_out=(), seed=0)
