"""The stages of a transformers module: where each ends, and which hidden state is its map."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from torch import nn

from zoo.contracts.backbone import StageMap
from zoo_huggingface.plans import Plan

__all__ = ["Tap", "find_taps", "stage_map"]

QUARTERS = 4
"""Number of stages that a network of one resolution is divided into."""


@dataclass(frozen=True, slots=True)
class Tap:
    """Where a stage ends and its map is taken.

    Args:
        stage: Name of the stage.
        module: Path of the last module of the stage; empty for the stem.
        index: Index of its map among the library's hidden states; None if it has no map.
    """

    stage: str
    module: str
    index: int | None

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return asdict(self)


def find_taps(plan: Plan, native: nn.Module, sizes: list[tuple[int, int]]) -> list[Tap]:
    """Choose the stages.

    A pyramid has one stage a resolution, ending where that resolution's last map is taken; a network of one
    resolution (ViT, text) is divided into quarters. The embeddings' own map is the stem's if no block has its
    resolution.

    Args:
        plan: Which module it is.
        native: The module.
        sizes: Height and width of each map of the library, in order; empty if it has none.
    """
    rule = plan.rule
    if not rule.blocks:
        return []
    path = f"{rule.tower}.{rule.blocks}" if rule.tower else rule.blocks
    blocks: Any = native.get_submodule(path)
    count = len(blocks)
    if len(set(sizes)) > 1:
        grids = sizes[rule.first :]
        ends = [i for i, (here, after) in enumerate(pairwise(grids)) if here != after] + [count - 1]
    else:
        parts = min(QUARTERS, count)
        ends = [round((part + 1) * count / parts) - 1 for part in range(parts)]
    taps = [
        Tap(f"s{number}", f"{path}.{end}", end + rule.first if sizes else None) for number, end in enumerate(ends, 1)
    ]
    if rule.first == 1 and len(set(sizes)) > 1 and sizes[0] not in sizes[1:]:
        taps.insert(0, Tap("stem", "", 0))
    return taps


def stage_map(plan: Plan, native: nn.Module, taps: list[Tap]) -> StageMap:
    """Give the stage of every module, parameter and buffer."""
    numbered = {tap.stage: tap.module for tap in taps if tap.stage != "stem"}
    begins = next(iter(numbered.values())).rpartition(".")[0] + ".0" if numbered else None
    return StageMap(native, numbered, begins=begins)
