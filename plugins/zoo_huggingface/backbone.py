"""A transformers encoder as a zoo backbone: one pass gives the pooled vector, tokens, mask and NCHW maps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from zoo.contracts.backbone import Backbone
from zoo.contracts.features import Features, Want
from zoo.spec import BackboneSpec
from zoo_huggingface.plans import Plan
from zoo_huggingface.processors import as_processor
from zoo_huggingface.reading import Reader
from zoo_huggingface.stages import Tap, stage_map

__all__ = ["HuggingFaceBackbone"]


class HuggingFaceBackbone(Backbone):
    """A transformers encoder, its keys untouched.

    Maps are what transformers' ``hidden_states`` hold after the block that ends a stage, so the final norm of a ViT is
    not applied to them, not even to the last one; swin's are those before a stage's downsampling. Tokens and pooled
    vector come from ``last_hidden_state`` and ``pooler_output``, so the final norm is applied to them wherever the
    library applies it (CLIP's vision tower norms its pooled vector only).

    Args:
        spec: What it takes and gives.
        native: The module, built by the plan.
        plan: How it was built and is pooled.
        taps: Where the stages end.
    """

    def __init__(self, spec: BackboneSpec, native: nn.Module, plan: Plan, taps: list[Tap]) -> None:
        super().__init__(spec, native, stage_map(plan, native, taps))
        self._reader = Reader(plan, native)
        self._index = {tap.stage: tap.index for tap in taps if tap.index is not None}

    def extract(self, inputs: Mapping[str, Tensor], want: Want) -> Features:
        """Run the module once; hidden states are asked for only where a map, or a grid read from one, is wanted."""
        reader = self._reader
        hidden = bool(want.maps) or (want.tokens and reader.rule.maps == "reshaped_hidden_states")
        reading = reader.run(self.native, inputs, hidden=hidden)
        features = Features(mask=reading.mask)
        if want.pooled:
            features.pooled = reader.pool(reading)
            features.embed = reader.embed(self.native, features.pooled)
        if want.tokens:
            prefix = reader.prefix(reading)
            last: Tensor = reading.output.last_hidden_state
            features.tokens = last[:, prefix:]
            features.prefix = last[:, :prefix] if prefix else None
            features.grid = reader.grid(reading)
        if want.maps:
            maps = reader.maps(reading)
            features.maps = {stage: maps[self._index[stage]] for stage in want.maps}
        return features

    def set_grad_checkpointing(self, enable: bool = True) -> bool:
        """Turn transformers' own checkpointing on; families without it stay as they are."""
        native: Any = self.native
        if not native.supports_gradient_checkpointing:
            return False
        kind = "activation" if "activation_checkpointing_enable" in dir(native) else "gradient"  # renamed in 5.x
        if enable:
            arguments = {f"{kind}_checkpointing_kwargs": {"use_reentrant": False}}
            getattr(native, f"{kind}_checkpointing_enable")(**arguments)
        else:
            getattr(native, f"{kind}_checkpointing_disable")()
        return enable

    def native_files(self) -> dict[str, object]:
        """Give the ``config.json``, and for pictures the ``preprocessor_config.json``, that transformers reads."""
        native: Any = self.native
        config = json.loads(native.config.to_json_string())
        config = {key: value for key, value in config.items() if not key.startswith("_")}
        files: dict[str, object] = {"config.json": {**config, "architectures": [type(native).__name__]}}
        processor = as_processor(self.spec.preprocessing)
        if processor is not None:
            files["preprocessor_config.json"] = processor
        return files
