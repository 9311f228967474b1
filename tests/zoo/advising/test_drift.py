"""The short fine-tuning: it moves a copy's features, is over in time, and nothing of it stays."""

import pytest
import torch

import zoo
import zoo.advising.drift as room
import zoo.data
from zoo.advising.drift import drift
from zoo.advising.vectors import frozen_vectors, untrained

CPU = torch.device("cpu")


@pytest.fixture
def asked(classes):
    """A network without running statistics, rows of two classes, and its features of them."""
    one = zoo.build("timm:test_vit", zoo.head("classifier", classes=["a", "b"]), weights=None, seed=0)
    noise = torch.randn(16, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    rows = [
        {"image": zoo.data.TensorSample(f"picture {n}", picture + 1.5 * (n % 2))} for n, picture in enumerate(noise)
    ]
    before = frozen_vectors(one, rows, CPU, ("main",))
    other = frozen_vectors(untrained(one, seed=1), rows, CPU, ("main",))
    return one, rows, classes(torch.arange(16) % 2, names=("a", "b")), before, other


@pytest.mark.slow
def test_features_stay_where_nothing_is_learnt_and_move_the_further_the_higher_the_rate(asked, monkeypatch):
    monkeypatch.setattr(room, "STEPS", 3)
    found = []
    for rate in (0.0, 1e-4, 1e-2):
        monkeypatch.setattr(room, "LR", rate)
        found.append(drift(*asked, CPU, ("main",), seed=0))

    assert found[0].cka == pytest.approx(1, abs=1e-6)
    assert found[0].cka > found[1].cka > found[2].cka
    assert [one.share for one in found] == pytest.approx([(1 - one.cka) / (1 - one.untrained) for one in found])
    assert {one.steps for one in found} == {3}


@pytest.mark.slow
def test_the_probe_stops_when_its_time_is_over(asked, monkeypatch):
    ticks = iter(range(0, 1000, 25))
    monkeypatch.setattr(room.time, "monotonic", lambda: float(next(ticks)))

    assert drift(*asked, CPU, ("main",), seed=0).steps == 2


@pytest.mark.slow
def test_the_untrained_twin_has_other_weights_and_leaves_the_generator_alone(asked):
    one = asked[0]
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)

    twin = untrained(one, seed=1)

    assert torch.equal(torch.rand(2), expected)
    pairs = zip(one.backbones.parameters(), twin.backbones.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)
