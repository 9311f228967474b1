"""Sounds to what a backbone takes, by the feature extractor that a source brings as JSON."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import SequenceFeatureExtractor
from transformers.models.auto.feature_extraction_auto import (
    FEATURE_EXTRACTOR_MAPPING_NAMES,
    feature_extractor_class_from_name,
)

from zoo.errors import ConfigError, DataError
from zoo.spec import InputSpec
from zoo_huggingface.plans import clean
from zoo_huggingface.quiet import quiet
from zoo_huggingface.reading.sequence import MASK
from zoo_huggingface.rules.sequence import Sequence
from zoo_huggingface.sources import first_line

__all__ = ["EXTRACTOR_FILE", "Sounds", "nested_extractor", "without_extractor"]

EXTRACTOR_FILE = "preprocessor_config.json"
"""The file that makes a feature extractor."""

_MASKS = ("attention_mask", "padding_mask", "input_features_mask", "input_values_mask")
_NAMES = ("feature_extractor_type", "image_processor_type", "processor_class")


def without_extractor(who: str, where: str) -> str:
    """Say why a source gives no feature extractor."""
    return f"{who}: {where} brings no feature extractor ({EXTRACTOR_FILE}); give it tensors."


def nested_extractor(processor: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Find the feature extractor in the content of a ``processor_config.json``; None if there is none."""
    for name in ("feature_extractor", "audio_processor"):
        found = (processor or {}).get(name)
        if isinstance(found, dict):
            return dict(found)
    return None


class Sounds:
    """A feature extractor, and the JSON that it is made of.

    Args:
        who: The reference, for messages.
        model_type: The type, which names the extractor where the JSON does not.
        said: The JSON; None for the defaults of the type's own extractor.

    Raises:
        ConfigError: If transformers has no such extractor, or cannot make it from this.
    """

    def __init__(self, who: str, model_type: str, said: Mapping[str, Any] | None) -> None:
        self.who = who
        fields = clean(said or {})
        name = fields.get("feature_extractor_type") or FEATURE_EXTRACTOR_MAPPING_NAMES.get(model_type)
        cls = feature_extractor_class_from_name(name) if isinstance(name, str) else None
        if not (isinstance(cls, type) and issubclass(cls, SequenceFeatureExtractor)):
            raise ConfigError(f"{who}: transformers has no feature extractor of sounds called {name!r}.")
        values = {key: value for key, value in fields.items() if key not in _NAMES}
        try:
            with quiet():
                self.extractor: Any = cls(**values)
        except Exception as error:  # what an extractor's constructor raises has no common type
            raise ConfigError(f"{who}: {name} cannot be made from its file: {first_line(error)}") from error
        self._said = {**values, "feature_extractor_type": name}

    @classmethod
    def read(cls, who: str, model_type: str, content: bytes) -> Sounds:
        """Make it from the content of its file.

        Raises:
            ConfigError: If that is no JSON object, or no extractor can be made from it.
        """
        try:
            said = json.loads(content)
        except ValueError as error:
            raise ConfigError(f"{who}: its {EXTRACTOR_FILE} is not JSON: {error}.") from error
        if not isinstance(said, dict):
            raise ConfigError(f"{who}: its {EXTRACTOR_FILE} must hold a JSON object, got {type(said).__name__}.")
        return cls(who, model_type, said)

    def files(self) -> dict[str, bytes]:
        """Give the file that makes it again."""
        return {EXTRACTOR_FILE: json.dumps(self._said, indent=2).encode("utf-8")}

    @property
    def rate(self) -> int:
        """Samples a second that it takes."""
        return int(self.extractor.sampling_rate)

    def __call__(self, sample: Any, inputs: tuple[InputSpec, ...], sequence: Sequence) -> dict[str, Tensor]:
        """Turn a sound, or a list of sounds, into what the backbone takes.

        Args:
            sample: Samples of one channel, a float array or tensor of rank 1 at the extractor's rate; a tuple of
                samples and their rate in hertz, which is checked; or a list of either for a batch.
            inputs: What the backbone takes.
            sequence: How its type takes it.

        Shape:
            - returns: ``(samples,)`` or ``(bins, steps)``, and the mask; with the batch in front for a list.

        Raises:
            DataError: If it is no sound of one channel, or of another rate.
        """
        sounds = list(sample) if isinstance(sample, list) else [sample]
        if not sounds:
            raise DataError(f"{self.who}: a batch of sounds must hold at least one, got none.")
        arrays = [self._samples(sound) for sound in sounds]
        try:
            with quiet():
                given = self.extractor(arrays, **self._options(fixed=inputs[0].fixed_length))
        except Exception as error:  # what an extractor raises has no common type
            raise DataError(f"{self.who}: its feature extractor fails: {first_line(error)}") from error
        made: Tensor = torch.as_tensor(np.asarray(given[self.extractor.model_input_names[0]]), dtype=torch.float32)
        made = made.squeeze(1) if made.ndim > inputs[0].rank else made
        batch = {inputs[0].name: made.transpose(1, 2) if sequence.steps_first else made}
        mask = next((given[name] for name in _MASKS if name in given), None)
        if mask is not None:
            batch[MASK] = torch.as_tensor(np.asarray(mask)).to(torch.int64)
        return batch if isinstance(sample, list) else {name: tensor[0] for name, tensor in batch.items()}

    def _options(self, *, fixed: bool) -> dict[str, Any]:
        options: dict[str, Any] = {"sampling_rate": self.rate, "return_tensors": "np"}
        known = inspect.signature(type(self.extractor).__call__).parameters
        if "return_attention_mask" in known:
            options["return_attention_mask"] = True
        if "padding" in known and not fixed:
            options["padding"] = True
        return options

    def _samples(self, sound: Any) -> NDArray[np.float32]:
        if isinstance(sound, tuple):
            if len(sound) != 2 or not isinstance(sound[1], int):
                raise DataError(
                    f"{self.who}: a tuple must be samples and their rate in hertz, got {len(sound)} things."
                )
            sound, rate = sound
            if rate != self.rate:
                raise DataError(f"{self.who} takes sounds of {self.rate} samples a second, got {rate}; resample them.")
        if isinstance(sound, Tensor):
            sound = sound.detach().cpu().numpy()
        if not isinstance(sound, np.ndarray) or sound.ndim != 1 or not len(sound) or sound.dtype.kind != "f":
            got = f"{sound.dtype} {sound.shape}" if isinstance(sound, np.ndarray) else type(sound).__name__
            raise DataError(
                f"{self.who}: a sound must be a float array of one channel, (samples,), from -1 to 1, got {got}."
            )
        return sound.astype(np.float32)
