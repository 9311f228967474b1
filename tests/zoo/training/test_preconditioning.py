"""The variables in which linear heads are solved: shorter along the features' widest directions, and nothing else."""

import torch

from zoo.training.linear.preconditioning import CURVATURE, ROWS, directions_of


def features(variances, rows=256):
    """Make rows whose second moment is exactly diagonal in a drawn basis; give both."""
    draw = torch.Generator().manual_seed(0)
    turned = torch.linalg.qr(torch.randn(len(variances), len(variances), generator=draw).double()).Q
    white = torch.linalg.qr(torch.randn(rows, len(variances), generator=draw).double()).Q * rows**0.5
    return (white * torch.tensor(variances).double().sqrt()) @ turned.T, turned


def test_each_direction_is_shortened_by_the_root_of_its_curvature():
    variances, decay = [400.0, 25.0, 4.0, 1.0], 0.1
    rows, turned = features(variances)

    directions = directions_of(rows, decay)

    curvature = CURVATURE * torch.tensor(variances).double() + decay
    expected = turned @ torch.diag((curvature.min() / curvature).sqrt()) @ turned.T
    torch.testing.assert_close(directions(torch.eye(4).double()), expected, rtol=1e-4, atol=1e-5)


def test_only_the_widest_directions_are_shortened_where_there_are_many():
    variances = [1e4, 1e3] + [1.0] * 98
    rows, turned = features(variances)

    shortened = directions_of(rows, 0.01)(turned.T.contiguous())  # a weight along each direction

    lengths = shortened.norm(dim=1)
    assert lengths[0] < 0.02
    assert lengths[1] < 0.05
    assert (lengths[2:] > 0.7).all()


def test_features_that_do_not_vary_and_single_rows_are_left_alone():
    weights = torch.randn(2, 5, dtype=torch.float64)

    for rows in (torch.zeros(10, 5), torch.zeros(1, 5), torch.zeros(ROWS + 7, 5)):
        torch.testing.assert_close(directions_of(rows, 0.1)(weights), weights)
        assert directions_of(rows, 0.0)(weights).isfinite().all()


def test_no_global_random_number_is_drawn():
    before = torch.get_rng_state()

    directions_of(torch.randn(8, 3, generator=torch.Generator().manual_seed(1)), 0.1)

    assert torch.equal(torch.get_rng_state(), before)
