"""The scores against their papers' formulas, by hand with numpy."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from zoo.errors import ConfigError, UnknownName
from zoo.searching.scores import mean_ranks, naswot, read_scores, synflow


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))


class Gated(nn.Module):
    """Squeeze-and-excitation by hand: what flows is scaled by a gate that its own mean decides."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.one, self.squeeze, self.gate = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), gate

    def forward(self, x):
        x = self.one(x)
        return x * self.gate(self.squeeze(x.mean((2, 3), keepdim=True)))


def test_synflow_of_two_layers_is_twice_the_product_of_absolute_weights():
    net = _net()
    one, two = (np.abs(net[i].weight.detach().double().numpy()) for i in (0, 3))
    # each layer conserves R = 1' |W2| |W1| 1; the batch normalisation is an identity

    truth = 2 * (two @ one @ np.ones(3)).sum()
    assert math.isclose(synflow(net, torch.randn(4, 3)), math.log(truth), rel_tol=1e-12)


@pytest.mark.parametrize("activation", [nn.ReLU6(), nn.Hardswish(), nn.SiLU()])
def test_synflow_is_the_same_whatever_the_activation(activation):
    net, other = _net(), _net()
    other[2] = activation

    assert synflow(other, torch.randn(4, 3)) == synflow(net, torch.randn(4, 3))


@pytest.mark.parametrize("gate", [nn.Sigmoid(), nn.Hardsigmoid()])
def test_synflow_goes_through_open_gates(gate):
    net = Gated(gate)
    truth = 25 * net.one.weight.detach().double().abs().sum()  # 25 pixels of ones, and one layer that conserves

    assert math.isclose(synflow(net, torch.randn(2, 3, 5, 5)), math.log(truth), rel_tol=1e-12)


def test_synflow_of_a_cut_network_is_minus_infinity():
    net = _net()
    nn.init.zeros_(net[0].weight)

    assert synflow(net, torch.randn(4, 3)) == -math.inf


def test_the_scores_leave_the_network_as_it_was():
    net = _net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    synflow(net, torch.randn(4, 3))
    naswot(net, torch.randn(4, 3))

    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert isinstance(net[1], nn.BatchNorm1d)
    assert net.training


def test_naswot_is_the_log_determinant_of_agreeing_bits():
    net, rows = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 2)), torch.randn(4, 3)
    codes = (net[0](rows) > 0).numpy()
    kernel = np.array([[16 - (a != b).sum() for b in codes] for a in codes], float)

    truth = np.log(abs(np.linalg.det(kernel)))
    assert math.isclose(naswot(net, rows), truth, rel_tol=1e-9)


def test_naswot_takes_the_batch_norm_statistics_of_its_rows():
    torch.manual_seed(0)
    net, rows = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.ReLU()).eval(), torch.randn(4, 3) + 5
    before = net[0](rows).detach().double().numpy()
    codes = (before - before.mean(0)) > 0  # scaling changes no sign
    kernel = np.array([[16 - (a != b).sum() for b in codes] for a in codes], float)

    assert math.isclose(naswot(net, rows), np.linalg.slogdet(kernel)[1], rel_tol=1e-9)


def test_naswot_of_two_equal_rows_is_minus_infinity():
    net, row = nn.Sequential(nn.Linear(3, 16), nn.ReLU()), torch.randn(1, 3)

    assert naswot(net, torch.cat([row, row])) == -math.inf


def test_naswot_of_a_network_without_activations_is_refused():
    with pytest.raises(ConfigError, match="Linear has none"):
        naswot(nn.Linear(3, 2), torch.randn(2, 3))


def test_ranks_are_the_mean_over_the_scores_and_equals_share():
    found = mean_ranks([{"a": 1.0, "b": 5.0}, {"a": 3.0, "b": 5.0}, {"a": 2.0, "b": -math.inf}])

    assert found == [(0 + 1.5) / 2, (2 + 1.5) / 2, (1 + 0) / 2]


def test_wrong_scores_are_named():
    with pytest.raises(UnknownName, match="'synflw'; there are synflow"):
        read_scores(("synflw",))
    with pytest.raises(ConfigError, match="each once"):
        read_scores(("synflow", "synflow"))
    with pytest.raises(ConfigError, match="one or more"):
        read_scores(())
