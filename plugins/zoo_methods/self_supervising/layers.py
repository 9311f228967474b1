"""What stands on the pooled vector while a backbone trains without labels: projectors and predictors."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["Prototypes", "perceptron"]


def perceptron(*widths: int, last_norm: bool = False) -> nn.Sequential:
    """Make linear layers with BatchNorm and ReLU between them.

    Args:
        widths: Channels in, of each hidden layer, and out; 1 or more.
        last_norm: Whether the result is normalised as well, by a BatchNorm without weights.

    Shape:
        - input: ``(B, widths[0])``, with ``B`` 2 or more in training.
        - output: ``(B, widths[-1])``.
    """
    made: list[nn.Module] = []
    for before, after in pairwise(widths[:-1]):
        made += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
    made.append(nn.Linear(widths[-2], widths[-1], bias=not last_norm))
    if last_norm:
        made.append(nn.BatchNorm1d(widths[-1], affine=False))
    return nn.Sequential(*made)


class Prototypes(nn.Module):
    """DINO's projection head: three layers, a bottleneck of length 1, and its cosine to each prototype.

    Args:
        channels: Width of the pooled vector.
        hidden: Width of the two hidden layers.
        count: Number of prototypes.

    Shape:
        - input: ``(B, channels)``; output: ``(B, count)``, in ``[-1, 1]``.

    Source:
        Caron et al., 2021, arXiv:2104.14294, appendix C: no BatchNorm, GELU, a bottleneck of 256, and a last layer
        whose weights have length 1.
    """

    def __init__(self, channels: int, hidden: int, count: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()),
            nn.Linear(hidden, _BOTTLENECK),
        )
        self.prototypes = nn.Parameter(torch.empty(count, _BOTTLENECK))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        nn.init.trunc_normal_(self.prototypes, std=0.02)

    def forward(self, pooled: Tensor) -> Tensor:
        """Give the cosines."""
        unit = nn.functional.normalize
        return nn.functional.linear(unit(self.layers(pooled), dim=-1), unit(self.prototypes, dim=-1))


_BOTTLENECK = 256
