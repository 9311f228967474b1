"""The memory of rows: which are kept of each class, and how they come back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Sampler

__all__ = ["Replayed", "herd", "kept_rows"]


def herd(features: Tensor, count: int) -> list[int]:
    """Choose rows one by one so that their mean stays close to the mean of all: herding, iCaRL's algorithm 4.

    ``p_k = argmin_x ‖ μ - (φ(x) + Σ_{j<k} φ(p_j)) / k ‖`` with features of length 1 and their mean μ.

    Args:
        features: ``(N, C)``.
        count: How many rows are chosen; all where there are fewer.

    Returns:
        Row numbers, the best first; of two that are as good, the first.
    """
    unit = F.normalize(features.double(), dim=1)
    mean, held = unit.mean(dim=0), torch.zeros(unit.shape[1], dtype=torch.float64, device=unit.device)
    chosen: list[int] = []
    for k in range(1, min(count, len(unit)) + 1):
        apart = (mean - (unit + held) / k).norm(dim=1)
        apart[chosen] = torch.inf
        chosen.append(int(apart.argmin()))
        held = held + unit[chosen[-1]]
    return chosen


def kept_rows(groups: Sequence[Sequence[int]], memory: int) -> list[int]:
    """Give each group its share of the memory, from its best rows on.

    Args:
        groups: For each group its rows, the best first.
        memory: Rows in all; each group gets ``memory // len(groups)`` at the most.
    """
    share = memory // max(1, len(groups))
    return [row for rows in groups for row in rows[:share]]


class Replayed(Sampler[int]):
    """Draws each new row once an epoch, and among them rows of the memory, all of these as often as one another.

    Args:
        new: Number of new rows, which come first.
        old: Number of rows of the memory, 1 or more, behind them.
        share: Share of the rows drawn that are of the memory, in ``(0, 1)``.
        seed: The run's seed.
    """

    def __init__(self, new: int, old: int, share: float, seed: int) -> None:
        self._new, self._old, self._seed = new, old, seed
        self._again = max(1, round(new * share / (1 - share)))
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Tell which epoch is drawn, from 0; the engine does."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._new + self._again

    def __iter__(self) -> Iterator[int]:
        drawn = torch.Generator().manual_seed(self._seed * 1_000_003 + self.epoch)
        rounds = -(-self._again // self._old)
        again = torch.cat([torch.randperm(self._old, generator=drawn) for _ in range(rounds)])[: self._again]
        rows = torch.cat([torch.arange(self._new), self._new + again])
        return iter(rows[torch.randperm(len(rows), generator=drawn)].tolist())
