"""The stages of a timm model: from its ``feature_info``, and from tables where that does not say how it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from torch import nn

from zoo.contracts.backbone import StageMap

__all__ = ["Tap", "find_taps", "stage_map"]

QUARTERS = 4
"""Number of stages that a network of one resolution is divided into."""

# Class -> path that its ``feature_info`` declares -> the module that is meant: the declared one is not there, or it
# begins the stage after.
_MISDECLARED = {
    "Gemma4VitClassifier": {f"blocks.{i}": f"encoder.blocks.{i}" for i in range(64)},
    "MultiScaleVit": {f"block.{i}": f"stages.{i}" for i in range(4)},
    "TResNet": {"": "body.conv1"},
    "Twins": {f"block.{i}": f"blocks.{i}" for i in range(4)},
    "Xception": {"block2.rep.0": "block1", "block3.rep.0": "block2", "block12.rep.0": "block11"},
}

# Class -> its stages: name, the module in which it ends, and the index of the map that is taken there. For networks
# whose branches run side by side, so that every map but the first comes from the end; used where all modules exist.
_PARALLEL: Mapping[str, tuple[tuple[str, str, int | None], ...]] = {
    "CoaT": (
        ("s1", "serial_blocks1", 0),
        *((f"s{i}", f"serial_blocks{i}", None) for i in (2, 3, 4)),
        *((f"s{4 + i}", "parallel_blocks", i) for i in (1, 2, 3)),
    ),
    "CrossVit": (("s1", "blocks.0", None), ("s2", "blocks.1", None), ("s3", "blocks.2", 2), ("s4", "blocks.2", 5)),
    "HighResolutionNet": (
        ("stem", "act2", 0),
        ("s1", "layer1", None),
        *((f"s{i}", f"stage{i}", None) for i in (2, 3)),
        *((f"s{4 + i}", f"incre_modules.{i}", i + 1) for i in range(4)),
    ),
}

# Class -> path -> its stage, for what is defined in another order than it runs in.
_HIDDEN_STATES = {**{f"norm.{i}": f"s{i + 1}" for i in range(3)}, "weights": "post", "weights_dist": "post"}
_MOVED: Mapping[str, Mapping[str, str]] = {
    "CoaT": {
        **{f"{part}{i}": f"s{i}" for part in ("patch_embed", "cls_token", "cpe", "crpe") for i in (2, 3, 4)},
        **{f"{part}1": "s1" for part in ("cpe", "crpe")},
    },
    "EfficientViM": _HIDDEN_STATES,
    "EfficientViMDistilled": _HIDDEN_STATES,
    "HighResolutionNet": {f"downsamp_modules.{i}": f"s{5 + i}" for i in range(3)},
    "Twins": {
        **{f"{path}.{i}": f"s{i + 1}" for path in ("patch_embeds", "pos_drops") for i in range(1, 4)},
        **{f"pos_block.{i}": f"s{i + 1}" for i in range(4)},
    },
    "VOLO": {"pos_drop": "s2"},
    "Visformer": {f"pos_embed{i}": f"s{i}" for i in (2, 3)},
}


@dataclass(frozen=True)
class Tap:
    """Where a stage ends, and where its map is taken.

    Args:
        stage: Name of the stage.
        index: Index among timm's ``forward_intermediates``; None if the stage gives no map.
        module: Path of the module in which the stage ends.
        begins: Path of the module in which it begins.
        reduction: Input size divided by map size, as timm declares it; None if the stage gives no map.
    """

    stage: str
    index: int | None
    module: str
    begins: str
    reduction: float | None

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return asdict(self)


def find_taps(native: nn.Module) -> list[Tap]:
    """Choose the stages of a timm model from its ``feature_info``.

    A pyramid has one stage a resolution, ending where that resolution's last map is taken; a network of one resolution
    (ViT, Mixer) is divided into quarters, which is where dense-prediction heads for ViTs take their maps too. A first
    map that is taken before any block is the stem's. Networks with parallel branches have their stages in a table.
    """
    info: Any = native.feature_info
    points = list(info if isinstance(info, list) else info.get_dicts())
    renamed = _MISDECLARED.get(type(native).__name__, {})
    points = [{**point, "module": renamed.get(point["module"], point["module"])} for point in points]
    if parallel := _parallel(native):
        return [
            Tap(stage, index, path, path, None if index is None else points[index]["reduction"])
            for stage, path, index in parallel
        ]
    reductions = [point["reduction"] for point in points]
    last = {reduction: i for i, reduction in enumerate(reductions)}
    if len(last) == 1:
        count = len(points)
        parts = min(QUARTERS, count)
        ends = sorted({round((part + 1) * count / parts) - 1 for part in range(parts)})
    else:
        ends = sorted(last.values())
    taps: list[Tap] = []
    start, number = 0, 1
    for end in ends:
        stem = end == 0 and _before_blocks(points[0]["module"]) and len(ends) > 1
        stage = "stem" if stem else f"s{number}"
        taps.append(Tap(stage, end, points[end]["module"], points[start]["module"], reductions[end]))
        number += not stem
        start = end + 1
    return taps


def _parallel(native: nn.Module) -> tuple[tuple[str, str, int | None], ...]:
    found = _PARALLEL.get(type(native).__name__, ())
    paths = {path for path, _ in native.named_modules()}
    return found if all(path in paths for _, path, _ in found) else ()


def _before_blocks(path: str) -> bool:
    name = path.rpartition(".")[2]
    return path.startswith("stem.") or name.startswith(("stem", "act", "norm", "bn", "conv"))


def stage_map(native: nn.Module, taps: list[Tap]) -> StageMap:
    """Say for every module, parameter and buffer in which stage it runs."""
    numbered = [tap for tap in taps if tap.stage != "stem"]
    begins = numbered[0].begins if numbered else None
    moved = dict(_MOVED.get(type(native).__name__, {}))
    for tap, later in pairwise(taps):
        block, inside, _ = tap.module.partition(".stack.")
        if inside:  # an aligned Xception's map is taken inside a block, whose shortcut runs after it
            moved[f"{block}.shortcut"] = later.stage
            begins = _after(native, tap.module) if tap.stage == "stem" else begins
    return StageMap(native, {tap.stage: tap.module for tap in taps}, begins=begins, moved=moved)


def _after(native: nn.Module, path: str) -> str:
    """Give the path of the module that is defined next after another and all in it."""
    paths = [name for name, _ in native.named_modules()]
    inside = [i for i, name in enumerate(paths) if name == path or name.startswith(path + ".")]
    return paths[inside[-1] + 1]
