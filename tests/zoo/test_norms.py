"""Norms get the statistics of rows: of all of them, exactly, and nothing else changes."""

import pytest
import torch
from torch import nn

from zoo.errors import ConfigError
from zoo.norms import measure_norms, norms_that_follow


@pytest.fixture
def rows():
    return 2 * torch.randn(11, 3, 5, 5, generator=torch.Generator().manual_seed(1)) + 1


def test_a_norm_gets_mean_and_variance_of_all_rows_whatever_the_batches(rows):
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1), nn.Dropout(0.5))
    count = measure_norms(net, rows.split(4), told="data=…")

    assert count == 1
    torch.testing.assert_close(net[0].running_mean, rows.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(net[0].running_var, rows.transpose(0, 1).flatten(1).var(dim=1))


def test_a_norm_above_another_sees_what_batch_statistics_give(rows):
    net = nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    measure_norms(net, [rows], told="data=…")
    centred = (rows - rows.mean(dim=(0, 2, 3), keepdim=True)) / (
        rows.var(dim=(0, 2, 3), keepdim=True, unbiased=False) + net[0].eps
    ).sqrt()
    torch.testing.assert_close(net[2].running_mean, net[1](centred).mean(dim=(0, 2, 3)))


def test_nothing_but_the_statistics_changes(rows):
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    measure_norms(net, rows.split(4), told="data=…")
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}

    assert changed == {"0.running_mean", "0.running_var", "2.running_mean", "2.running_var"}
    assert not net.training
    assert net[0].momentum == 0.1


@pytest.mark.parametrize("mode", [True, False])
def test_dropout_rests_whatever_the_mode_that_the_model_came_in(rows, mode):
    net = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(3)).train(mode)
    assert norms_that_follow(net) == [net[1]]
    assert net.training == mode == net[0].training
    measure_norms(net, rows.split(4), told="data=…")
    torch.testing.assert_close(net[1].running_mean, rows.mean(dim=(0, 2, 3)))


def test_norms_that_rest_or_have_no_statistics_are_left_out(rows):
    class Resting(nn.BatchNorm2d):
        def train(self, mode=True):
            return super().train(False)

    net = nn.Sequential(Resting(3), nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm2d(3))
    before = net[0].running_mean.clone()

    assert norms_that_follow(net) == [net[2]]
    assert measure_norms(net, [rows], told="data=…") == 1
    assert torch.equal(net[0].running_mean, before)


def test_a_batch_of_one_row_is_left_out_and_one_row_alone_refused(rows):
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3))
    measure_norms(net, rows.split(5), told="data=…")
    torch.testing.assert_close(net[1].running_mean, rows[:10].mean(dim=(0, 2, 3)))

    with pytest.raises(ConfigError, match="two rows or more; data=… has fewer"):
        measure_norms(net, [rows[:1]], told="data=…")
