"""The search for a learning rate: what it suggests, and that it leaves no trace."""

from __future__ import annotations

import importlib.util
import math
import random

import numpy as np
import pytest
import torch

import zoo
from zoo.errors import ConfigError, DataError, PluginError, UnknownName
from zoo.training.rate_finding import RateSearch, steepest

RUN = {"batch_size": 8, "device": "cpu", "steps": 40}


def test_of_a_loss_that_falls_like_a_logistic_curve_it_is_the_inflection():
    logs = np.linspace(-6, 0, 121)
    losses = 1 / (1 + np.exp(4 * (logs + 2.5)))

    assert steepest(list(10**logs), list(losses)) == pytest.approx(10**-2.5, rel=0.01)


@pytest.mark.parametrize("losses", [[1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [2.0, 1.0], []])
def test_of_a_loss_that_does_not_fall_there_is_no_steepest(losses):
    assert steepest([0.1, 0.2, 0.3][: len(losses)], losses) is None


def test_the_rates_rise_in_equal_ratios_from_the_lowest_to_the_highest(model, table):
    found = zoo.find_lr(model(), table(), method="feature_extraction", lowest=1e-6, highest=1e-2, **RUN)
    ratios = [b / a for a, b in zip(found.rates, found.rates[1:], strict=False)]

    assert (found.rates[0], found.rates[-1], len(found.rates)) == (1e-6, 1e-2, 40)
    assert all(ratio == pytest.approx((1e4) ** (1 / 39)) for ratio in ratios)
    assert not found.diverged
    assert found.suggestion in found.rates


def test_the_losses_are_those_of_a_loop_by_hand(model, table):
    """SGD on one batch that is all rows, whose loss does not depend on their order."""
    one = model(norm=False)
    rows = table(rows=12)
    found = zoo.find_lr(
        one, rows, method="feature_extraction", steps=10, lowest=1e-4, highest=1e-1, batch_size=12, validation=0.0,
        optimizer="sgd", weight_decay=0.0, device="cpu",
    )  # fmt: skip
    copied = model(norm=False).freeze().train()
    images = torch.stack([sample.open() for sample in rows.inputs["image"]])
    targets = {"kind": torch.tensor([n % 2 for n in range(12)])}
    losses = []
    for rate in found.rates:
        loss = sum(copied.losses(copied(images), targets).values())
        losses.append(float(loss.detach()))
        copied.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in copied.heads["kind"].parameters():
                parameter -= rate * parameter.grad

    assert found.losses == pytest.approx(losses, rel=1e-4)
    weights = [0.9**n for n in range(10)]
    assert found.smoothed[-1] == pytest.approx(
        sum(w * x for w, x in zip(weights, reversed(losses), strict=True)) / sum(weights), rel=1e-4
    )


@pytest.mark.slow
def test_the_model_its_modes_and_every_random_number_stay_as_they_were(model, table, state):
    one = model().freeze("s1").train()
    before, modes = state(one), [(m.training, [p.requires_grad for p in m.parameters()]) for m in one.modules()]
    rows = table()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    drawn = (torch.rand(2), random.random(), np.random.rand())
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    zoo.find_lr(one, rows, seed=9, **RUN)
    after = (torch.rand(2), random.random(), np.random.rand())

    assert torch.equal(drawn[0], after[0])
    assert drawn[1:] == after[1:]
    assert all(torch.equal(before[key], value) for key, value in one.state_dict().items())
    assert [(m.training, [p.requires_grad for p in m.parameters()]) for m in one.modules()] == modes
    assert {row.rate for row in one.stages()} == {None}


@pytest.mark.slow
def test_equal_seeds_search_alike(model, table):
    one, two = (zoo.find_lr(model(dropout=0.5), table(), seed=4, **RUN) for _ in range(2))

    assert one == two


@pytest.mark.slow
def test_where_the_loss_explodes_the_search_ends(model, table):
    found = zoo.find_lr(model(), table(), optimizer="sgd", highest=1e9, backbone_lr_scale=1.0, **RUN)

    assert found.diverged
    assert len(found.rates) == len(found.losses) == len(found.smoothed) < 40
    assert all(math.isfinite(loss) for loss in found.losses)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"steps": 9}, ConfigError, "steps must be a whole number, 10 or more, got 9"),
        ({"lowest": 0.0}, ConfigError, "The rates must rise from above 0"),
        ({"lowest": 2.0}, ConfigError, "The rates must rise"),
        ({"highest": float("inf")}, ConfigError, "to a finite number"),
        ({"highest": float("nan")}, ConfigError, "to a finite number"),
        ({"method": "no_such"}, UnknownName, "no_such"),
        ({"freeze": "s9"}, UnknownName, "no stage 's9'"),
        ({"stpes": 20}, UnknownName, "stpes"),
        ({"method": "feature_extraction", "freeze": "heads"}, ConfigError, "Nothing is left to train"),
    ],
)
def test_what_makes_no_search_is_refused_before_the_data_is_read(model, settings, error, words):
    with pytest.raises(error, match=words):
        zoo.find_lr(model(), "no such folder", **settings)


def test_data_that_is_not_there_is_the_datas_error(model):
    with pytest.raises(DataError):
        zoo.find_lr(model(), "no such folder")


def test_a_picture_is_drawn_or_what_it_needs_is_said(tmp_path):
    found = RateSearch((0.1, 1.0, 10.0), (3.0, 2.0, 1.0), (3.0, 2.5, 2.0), 1.0, diverged=False)
    if importlib.util.find_spec("matplotlib") is None:
        with pytest.raises(PluginError, match=r"needs matplotlib: pip install 'headzoo\[plot\]'"):
            found.plot(tmp_path / "rates.png")
        return
    assert found.plot(tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
