"""A timm model as a zoo backbone: one pass gives the pooled vector, tokens and NCHW maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from zoo.contracts.backbone import Backbone, StageMap
from zoo.contracts.features import Features, Want
from zoo.spec import BackboneSpec
from zoo_timm.stages import Tap
from zoo_timm.trimming import Reading, cut, outputs_of

__all__ = ["TimmBackbone", "checkpointing", "has_own_head", "pool"]


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
        - ``final``: what ``forward_features`` gives: ``(B, N, D)``, ``(B, D, H, W)``, or ``(B, H, W, D)`` if the
          model's ``output_fmt`` says so.
        - returns: ``(B, D)``.
    """
    model: Any = native
    if own_head:
        return model.forward_head(final, pre_logits=True)
    if final.ndim == 3:
        return final.mean(dim=1)
    return final.mean(dim=(1, 2) if getattr(model, "output_fmt", "NCHW") == "NHWC" else (2, 3))


def checkpointing(native: nn.Module, enable: bool) -> bool:
    """Turn timm's own checkpointing on or off and say whether the model has it; families without refuse to be asked."""
    model: Any = native
    try:
        model.set_grad_checkpointing(enable)
    except (AssertionError, AttributeError, NotImplementedError):
        return False
    return True


class TimmBackbone(Backbone):
    """A timm model, its classifier removed and its keys untouched.

    Args:
        spec: What it takes and gives.
        native: timm's model.
        stages: The stage of every parameter.
        taps: Where the maps are taken.
        readings: Output to what it reads, where that is not all of its stage and those before.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        native: nn.Module,
        stages: StageMap,
        taps: list[Tap],
        readings: Mapping[str, Reading],
    ) -> None:
        super().__init__(spec, native, stages)
        self._taps = {tap.stage: tap.index for tap in taps if tap.index is not None}
        self._readings = dict(readings)
        self._own_head = spec.pooling != "mean"

    def extract(self, inputs: Mapping[str, Tensor], want: Want) -> Features:
        """Run ``forward_features`` or ``forward_intermediates`` once, then pool what came last."""
        image = inputs["image"]
        native: Any = self.native
        if not want.pooled and not want.tokens:
            return Features(maps=self._maps(image, want.maps))
        if not want.maps and not want.tokens:
            return Features(pooled=pool(native, native.forward_features(image), own_head=self._own_head))
        last = self.spec.maps[-1].name
        indices = sorted(self._taps[stage] for stage in {*want.maps, *([last] if want.tokens else [])})
        final, maps = native.forward_intermediates(image, indices=indices, output_fmt="NCHW")
        by_index = dict(zip(indices, maps, strict=True))
        features = Features(maps={stage: by_index[self._taps[stage]] for stage in want.maps})
        if want.pooled:
            features.pooled = pool(native, final, own_head=self._own_head)
        if want.tokens:
            prefix = self.spec.prefix_tokens
            features.tokens = final[:, prefix:]
            features.prefix = final[:, :prefix] if prefix else None
            height, width = by_index[self._taps[last]].shape[-2:]
            features.grid = (int(height), int(width))
        return features

    def _maps(self, image: Tensor, stages: tuple[str, ...]) -> dict[str, Tensor]:
        """Give maps alone; what comes after the last of them does not run."""
        native: Any = self.native
        indices = sorted({self._taps[stage] for stage in stages})
        if not indices:
            return {}
        maps = native.forward_intermediates(
            image, indices=indices, output_fmt="NCHW", stop_early=True, intermediates_only=True
        )
        by_index = dict(zip(indices, maps, strict=True))
        return {stage: by_index[self._taps[stage]] for stage in stages}

    def cut(self, want: Want) -> bool:
        """Replace what nothing wanted reads."""
        names = [stage.name for stage in self.spec.stages]
        return cut(self.native, names, self.stage_of, self._readings, outputs_of(want))

    def undecayed(self) -> frozenset[str]:
        """Give what timm's ``no_weight_decay`` lists: position embeddings, class tokens and the like."""
        listed: Any = getattr(self.native, "no_weight_decay", frozenset)
        return frozenset(listed())

    def set_grad_checkpointing(self, enable: bool = True) -> bool:
        """Turn timm's own checkpointing on or off."""
        return checkpointing(self.native, enable) and enable

    def native_files(self) -> dict[str, object]:
        """Give the ``config.json`` with which ``timm.create_model("local-dir:…")`` builds this folder.

        timm builds whole models of its own definitions only, so where something was cut off or pruned, or the blocks
        are the user's, there is none.
        """
        if self.kept is not None or self.spec.widths or "blocks" in self.spec.construction:
            return {}
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
