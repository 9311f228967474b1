"""A timm model as a zoo backbone: one pass gives the pooled vector, tokens and NCHW maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from zoo.contracts.backbone import Backbone, StageMap
from zoo.contracts.features import Features, Want
from zoo.spec import BackboneSpec

__all__ = ["Tap", "TimmBackbone", "find_taps"]

QUARTERS = 4
"""Number of stages that a network of one resolution is divided into."""

# Class -> path that its ``feature_info`` declares and it does not have -> the module that is meant.
_MISDECLARED = {
    "HighResolutionNet": {"stem": "act2", "stage1": "layer1"},
    "MultiScaleVit": {f"block.{i}": f"stages.{i}" for i in range(4)},
    "TResNet": {"": "body.conv1"},
    "Twins": {f"block.{i}": f"blocks.{i}" for i in range(4)},
}

# Class -> path -> its stage, for what is defined in another order than it runs in.
MOVED = {
    "Twins": {
        **{f"{path}.{i}": f"s{i + 1}" for path in ("patch_embeds", "pos_drops") for i in range(1, 4)},
        **{f"pos_block.{i}": f"s{i + 1}" for i in range(4)},
    },
}


@dataclass(frozen=True)
class Tap:
    """Where a stage's map is taken.

    Args:
        stage: Name of the stage.
        index: Index among timm's ``forward_intermediates``.
        module: Path of the module in which the stage ends.
        begins: Path of the module in which it begins.
        reduction: Input size divided by map size, as timm declares it.
    """

    stage: str
    index: int
    module: str
    begins: str
    reduction: float

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return asdict(self)


def find_taps(native: nn.Module) -> list[Tap]:
    """Choose the stages of a timm model from its ``feature_info``.

    A pyramid has one stage a resolution, ending where that resolution's last map is taken; a network of one resolution
    (ViT, Mixer) is divided into quarters, which is where dense-prediction heads for ViTs take their maps too. A first
    map that is taken before any block is the stem's.
    """
    info: Any = native.feature_info
    points = list(info if isinstance(info, list) else info.get_dicts())
    renamed = _MISDECLARED.get(type(native).__name__, {})
    points = [{**point, "module": renamed.get(point["module"], point["module"])} for point in points]
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


def _before_blocks(path: str) -> bool:
    name = path.rpartition(".")[2]
    return name.startswith(("stem", "act", "norm", "bn", "conv"))


def has_own_head(native: nn.Module, final: Tensor) -> bool:
    """Say whether the model has ``forward_head(pre_logits=True)``; seven of timm's encoders have not."""
    model: Any = native
    try:
        model.forward_head(final, pre_logits=True)
    except (AttributeError, NotImplementedError, TypeError):
        return False
    return True


def pool(native: nn.Module, final: Tensor, *, own_head: bool) -> Tensor:
    """Give the pooled vector: by the model's own head, or the mean over tokens or space.

    Shape:
        - ``final``: what ``forward_features`` gives: ``(B, N, D)`` or ``(B, D, H, W)``.
        - returns: ``(B, D)``.
    """
    model: Any = native
    if own_head:
        return model.forward_head(final, pre_logits=True)
    return final.mean(dim=1) if final.ndim == 3 else final.mean(dim=(2, 3))


class TimmBackbone(Backbone):
    """A timm model, its classifier removed and its keys untouched."""

    def __init__(self, spec: BackboneSpec, native: nn.Module, stages: StageMap, taps: list[Tap]) -> None:
        super().__init__(spec, native, stages)
        self._taps = {tap.stage: tap.index for tap in taps}
        self._own_head = spec.pooling != "mean"

    def extract(self, inputs: Mapping[str, Tensor], want: Want) -> Features:
        """Run ``forward_features`` or ``forward_intermediates`` once, then pool what came last."""
        image = inputs["image"]
        native: Any = self.native
        if not want.maps and not want.tokens:
            return Features(pooled=pool(native, native.forward_features(image), own_head=self._own_head))
        stages = list(want.maps)
        last = self.spec.maps[-1].name
        indices = [self._taps[stage] for stage in dict.fromkeys((*stages, *([last] if want.tokens else [])))]
        final, maps = native.forward_intermediates(image, indices=sorted(indices), output_fmt="NCHW")
        by_index = dict(zip(sorted(indices), maps, strict=True))
        features = Features(maps={stage: by_index[self._taps[stage]] for stage in stages})
        if want.pooled:
            features.pooled = pool(native, final, own_head=self._own_head)
        if want.tokens:
            prefix = self.spec.prefix_tokens
            features.tokens = final[:, prefix:]
            features.prefix = final[:, :prefix] if prefix else None
            height, width = by_index[self._taps[last]].shape[-2:]
            features.grid = (int(height), int(width))
        return features

    def set_grad_checkpointing(self, enable: bool = True) -> bool:
        """Turn timm's own checkpointing on; families without it refuse by an assertion."""
        native: Any = self.native
        try:
            native.set_grad_checkpointing(enable)
        except (AssertionError, AttributeError, NotImplementedError):
            return False
        return enable

    def native_files(self) -> dict[str, object]:
        """Give the ``config.json`` with which ``timm.create_model("local-dir:…")`` builds this folder."""
        arguments = dict(self.spec.construction["arguments"])
        native: Any = self.native
        channels = arguments.pop("in_chans", None) or self.spec.inputs[0].channels
        config = {k: v for k, v in native.pretrained_cfg.items() if k not in _LOADING and _plain(v)}
        config["input_size"] = [channels, *(self.spec.inputs[0].size or native.pretrained_cfg["input_size"][1:])]
        content: dict[str, object] = {
            "architecture": self.spec.construction["architecture"],
            "num_classes": 0,
            "num_features": self.spec.pooled_dim,
            "pretrained_cfg": {**config, "num_classes": 0},
        }
        if arguments:
            content["model_args"] = arguments
        return {"config.json": content}


# Keys by which timm would look for weights elsewhere than in the folder.
_LOADING = frozenset({"url", "file", "hf_hub_id", "hf_hub_filename", "state_dict", "source", "custom_load"})


def _plain(value: object) -> bool:
    return value is None or isinstance(value, (str, int, float, bool, list, tuple))
