"""The stages of a transformers module: where each ends, and which inner module gives its map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from zoo.contracts.backbone import StageMap
from zoo_huggingface.plans import Plan
from zoo_huggingface.rules import Rule

__all__ = ["Tap", "choose_taps", "find_blocks", "shape_of", "stage_map", "tower_of"]

QUARTERS = 4
"""Number of stages that a network of one resolution is divided into."""

Blocks = list[list[str]]


@dataclass(frozen=True, slots=True)
class Tap:
    """Where a stage ends and its map is taken.

    Args:
        stage: Name of the stage.
        module: Path of the last module of the stage; empty for the stem.
        source: Path of the module that gives its map; empty if it has none.
        number: Number of the stage among those after the stem, from 0.
    """

    stage: str
    module: str
    source: str
    number: int

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return asdict(self)


def tower_of(plan: Plan, native: nn.Module) -> nn.Module:
    """Give the encoder inside the module, which is the module itself unless the rule says otherwise."""
    return native.get_submodule(plan.rule.tower)


def find_blocks(plan: Plan, native: nn.Module) -> Blocks:
    """List the blocks in the order of the rule, each by the paths of the members in which it may end.

    A block has one member, itself, unless it is a list or the rule looks inside it. A rule's path that the module does
    not have, such as that of another inner backbone than the usual one, leaves no blocks.
    """
    rule, prefix = plan.rule, f"{plan.rule.tower}." if plan.rule.tower else ""
    named = dict(native.named_modules())
    if isinstance(rule.blocks, tuple):
        paths = [prefix + path for path in rule.blocks]
        return [[path] for path in paths] if all(path in named for path in paths) else []
    blocks = named.get(prefix + rule.blocks) if rule.blocks else None
    if not isinstance(blocks, (nn.ModuleList, nn.Sequential)):
        return []
    return [_members(named, f"{prefix}{rule.blocks}.{name}", rule.inside) for name, _ in blocks.named_children()]


def _members(named: Mapping[str, nn.Module], path: str, inside: str) -> list[str]:
    inner = f"{path}.{inside}" if inside else path
    if isinstance(named.get(inner), (nn.ModuleList, nn.Sequential)) and (
        inside or isinstance(named[inner], nn.ModuleList)
    ):
        return [f"{inner}.{name}" for name, _ in named[inner].named_children()]
    return [path]


def choose_taps(rule: Rule, blocks: Blocks, stem: str, shapes: Mapping[str, tuple[int, ...]]) -> list[Tap]:
    """Choose the stages.

    A pyramid has one stage a resolution, ending where that resolution's last map is taken; a network of one
    resolution (ViT, text) is divided into quarters; modules that the rule names are each a stage.

    Args:
        rule: The type's rule.
        blocks: The blocks that :func:`find_blocks` found.
        stem: Path of the module whose output may be the stem's map; empty for none.
        shapes: Path to shape of what a member or the stem gave; what did not run is not there.
    """
    ends = [end for members in blocks if (end := _end(rule, members, shapes)) is not None]
    grids = [_grid(rule, shapes[end]) for end in ends]
    if not ends:
        return []
    last = len(ends) - 1
    if isinstance(rule.blocks, tuple):
        chosen = list(range(len(ends)))
    elif len(set(grids)) > 1:
        chosen = [i for i, (here, after) in enumerate(pairwise(grids)) if here != after] + [last]
    else:
        parts = min(QUARTERS, len(ends))
        chosen = [round((part + 1) * len(ends) / parts) - 1 for part in range(parts)]
    given = rule.maps is not None
    taps = [Tap(f"s{n}", ends[i], ends[i] if given else "", n - 1) for n, i in enumerate(chosen, 1)]
    if given and stem in shapes and shapes[stem][-2:] not in grids:
        taps.insert(0, Tap("stem", "", stem, 0))
    return taps


def _end(rule: Rule, members: list[str], shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Give the last member with a map of the first one's size."""
    ran = [member for member in members if member in shapes]
    return next((m for m in reversed(ran) if _grid(rule, shapes[m]) == _grid(rule, shapes[ran[0]])), None)


def _grid(rule: Rule, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) == 4:
        return shape[1:3] if rule.maps == "nhwc" else shape[-2:]
    return shape[:-1]


def stage_map(native: nn.Module, taps: Iterable[Tap], begins: str, moved: Mapping[str, str]) -> StageMap:
    """Give the stage of every module, parameter and buffer.

    Args:
        native: The module.
        taps: Where the stages end.
        begins: Path of the module in which the first stage after the stem begins; empty if there is none.
        moved: Path to stage, for what is defined out of the order in which it runs.
    """
    ends = {tap.stage: tap.module for tap in taps if tap.stage != "stem"}
    return StageMap(native, ends, begins=begins or None, moved=moved)


def shape_of(tensor: Tensor | None) -> tuple[int, ...] | None:
    """Give a tensor's shape as plain numbers."""
    return None if tensor is None else tuple(int(side) for side in tensor.shape)
