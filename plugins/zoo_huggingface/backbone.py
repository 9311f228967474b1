"""A transformers encoder as a zoo backbone: one pass gives the pooled vector, tokens, mask and NCHW maps."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from zoo.contracts.backbone import Backbone
from zoo.contracts.features import Features, Want
from zoo.errors import ConfigError
from zoo.spec import BackboneSpec
from zoo_huggingface.anatomy import Anatomy, recorded
from zoo_huggingface.companions import Companion, from_files
from zoo_huggingface.cutting import cut, rest
from zoo_huggingface.plans import Plan
from zoo_huggingface.processors import as_processor
from zoo_huggingface.reading import Reader
from zoo_huggingface.reading.recording import record
from zoo_huggingface.stages import stage_map
from zoo_huggingface.windows import keep_windows

__all__ = ["HuggingFaceBackbone"]


class HuggingFaceBackbone(Backbone):
    """A transformers encoder, its keys untouched.

    Maps are what the block gives that ends a stage, so the final norm of a ViT is not applied to them, not even to the
    last one; swin's are those before a stage's downsampling. Tokens and pooled vector come from ``last_hidden_state``
    and ``pooler_output``, so the final norm is applied to them wherever the library applies it (CLIP's vision tower
    norms its pooled vector only).

    Args:
        spec: What it takes and gives.
        native: The module, built by the plan.
        plan: How it was built and is pooled.
        takes: Name of the maker of its arguments.
        anatomy: Where its stages end, and what is not there.
        companion: Its tokenizer, feature extractor or image processor; None where the spec has a recipe.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        native: nn.Module,
        plan: Plan,
        takes: str,
        anatomy: Anatomy,
        companion: Companion | None = None,
    ) -> None:
        rest(native, anatomy.resting)
        keep_windows(native)
        super().__init__(spec, native, stage_map(native, anatomy.taps, anatomy.begins, anatomy.moved))
        record(native, recorded(plan, anatomy))
        self._anatomy = anatomy
        self._companion = companion
        self._reader = Reader(plan, native.config, takes, anatomy.taps, anatomy.sources)
        self._whole = True

    def extract(self, inputs: Mapping[str, Tensor], want: Want) -> Features:
        """Run the module once, as far as it is there, and read what is wanted."""
        return self._reader.read(self._reader.run(self.native, inputs), want)

    def cut(self, want: Want) -> bool:
        """Cut off what nothing wanted runs through; the pass ends where the first of it would begin."""
        idle = self._anatomy.idle_for(want)
        try:
            cut(self.native, idle.gone)
            rest(self.native, idle.resting)
        except AttributeError as error:  # a spec may come from a stranger's bundle
            raise ConfigError(
                f"{self.spec.reference}: its construction names a part that it has not: {error}."
            ) from error
        self._whole = self._whole and not idle.gone
        return bool(idle.gone or idle.resting)

    def preprocessor(self) -> Callable[[Any], Tensor | dict[str, Tensor]]:
        """Give the function from a picture, a text or a sound to what the backbone takes, as the weights were trained.

        A picture becomes what the recipe in the spec says, or what the image processor gives that the backbone brings.
        A text is a str, or a tuple of two for a pair, cut to the greatest length. A sound is a float array of one
        channel, or a tuple of it and its rate in hertz, which is checked. A list of texts or of sounds gives a batch,
        the shorter ones filled up and masked.

        Raises:
            ConfigError: If a picture backbone brings no image processor. The function raises it if there is no
                tokenizer or feature extractor; the message has the reason.
        """
        companion = self._companion
        if companion is None:
            return super().preprocessor()
        if companion.pictures is not None:
            return companion.pictures
        if self.spec.modality in ("image", "video"):
            raise ConfigError(companion.reason)
        return partial(companion, spec=self.spec, plan=self._reader.plan)

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
        """Give the files of processor, tokenizer or feature extractor, and the ``config.json`` of a whole module.

        Of a module that was cut, transformers would fill what is not there with random numbers, and one that was pruned
        it cannot build.
        """
        brought: dict[str, object] = {} if self._companion is None else dict(self._companion.files())
        if not self._whole or self.spec.widths:
            return brought
        native: Any = self.native
        config = json.loads(native.config.to_json_string())
        config = {key: value for key, value in config.items() if not key.startswith("_")}
        files: dict[str, object] = {"config.json": {**config, "architectures": [type(native).__name__]}}
        processor = as_processor(self.spec.preprocessing, clips=self.spec.modality == "video")
        if processor is not None:
            files["preprocessor_config.json"] = processor
        return files | brought

    def take_files(self, files: Mapping[str, bytes]) -> None:
        """Take back a tokenizer, a feature extractor or an image processor.

        Raises:
            ConfigError: If its files are damaged, or name code.
        """
        if self._companion is not None:
            made = from_files(self.spec, self._reader.plan, files, self._companion.size)
            self._companion = made or self._companion
