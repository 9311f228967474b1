"""What turns a sample into a backbone's input and travels with it: tokenizer, feature extractor or image processor.

An image processor is there where no recipe in the spec says what it does. A source's own is read when its weights are;
a bare type has no tokenizer, and the default extractor or image processor of its type. Where there is none, the reason
is kept, and said when a sample comes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from zoo.errors import ConfigError, WeightsError
from zoo.spec import BackboneSpec
from zoo_huggingface.pictures import PROCESSOR_FILE, Pictures, found_processor, without_processor
from zoo_huggingface.plans import Plan
from zoo_huggingface.rules.sequence import Sequence
from zoo_huggingface.sounds import EXTRACTOR_FILE, Sounds, nested_extractor, without_extractor
from zoo_huggingface.sources import Source
from zoo_huggingface.tokenizers import SLOW_FILES, TOKENIZER_FILES, Texts, without_tokenizer

__all__ = ["Companion", "from_files", "from_source"]


@dataclass(slots=True)
class Companion:
    """A tokenizer, a feature extractor or an image processor, or the reason why there is none.

    Args:
        texts: The tokenizer, for a text backbone.
        sounds: The feature extractor, for one of sounds.
        pictures: The image processor, for one of pictures.
        reason: Why there is none of them.
        size: Height and width that pictures must have, in pixels; None for those of the processor.
    """

    texts: Texts | None = None
    sounds: Sounds | None = None
    pictures: Pictures | None = None
    reason: str = ""
    size: tuple[int, int] | None = None

    def __call__(self, sample: Any, spec: BackboneSpec, plan: Plan) -> Tensor | dict[str, Tensor]:
        """Turn a sample, or a list of samples, into what the backbone takes.

        Raises:
            ConfigError: If there is no way.
            DataError: If the sample cannot be used.
        """
        sequence = plan.rule.sequence or Sequence()
        if self.texts is not None:
            return self.texts(sample, spec.inputs, padded=sequence.padded)
        if self.sounds is not None:
            return self.sounds(sample, spec.inputs, sequence)
        if self.pictures is not None:
            return self.pictures(sample)
        raise ConfigError(self.reason)

    def files(self) -> dict[str, bytes]:
        """Give the files that make it again."""
        held = self.texts or self.sounds or self.pictures
        return {} if held is None else held.files()


def from_source(
    spec: BackboneSpec, plan: Plan, source: Source, *, read: bool, size: tuple[int, int] | None = None
) -> Companion:
    """Find what a source brings.

    Args:
        spec: The backbone's spec.
        plan: Which module it is.
        source: Where it comes from.
        read: Whether the source may be read; a spec from a stranger's bundle may name any place.
        size: Height and width that pictures must have, in pixels; None for those of the processor.

    Raises:
        ConfigError: If its files are damaged, or name code.
    """
    who, sounds = spec.reference, spec.modality == "audio"
    if spec.modality == "video":
        return Companion(reason=f"{who}: no recipe says what its image processor does; give it clips that are ready.")
    if spec.modality == "image":
        return _pictures(spec, plan, source, read=read, size=size)
    if source.kind == "type":
        return _default(who, plan) if sounds else Companion(
            reason=f"{who}: a model type alone has no tokenizer; name a hub id or a folder that brings one, or give it "
            "token ids."
        )  # fmt: skip
    if not read:
        return Companion(reason=_unread(who, "feature extractor" if sounds else "tokenizer", source))
    try:
        return _extractor(who, plan, source) if sounds else _tokenizer(who, plan, source)
    except WeightsError as error:
        return Companion(reason=str(error))


def _unread(who: str, what: str, source: Source) -> str:
    return (
        f"{who}: built with weights=None, it has not read the {what} of {source.name}; build it with "
        "weights='pretrained', or give its files to take_files."
    )


def from_files(
    spec: BackboneSpec, plan: Plan, files: Mapping[str, bytes], size: tuple[int, int] | None = None
) -> Companion | None:
    """Make it from the files of a bundle; None if they hold none.

    Args:
        spec: The backbone's spec.
        plan: Which module it is.
        files: File name to content.
        size: Height and width that pictures must have, in pixels; None for those of the processor.

    Raises:
        ConfigError: If they are damaged, or name code.
    """
    if spec.modality == "audio" and EXTRACTOR_FILE in files:
        return Companion(sounds=Sounds.read(spec.reference, plan.model_type, files[EXTRACTOR_FILE]))
    if spec.modality == "image" and PROCESSOR_FILE in files:
        made = Pictures.read(spec.reference, plan.model_type, files[PROCESSOR_FILE], spec.inputs[0], size)
        return Companion(pictures=made, size=size)
    if spec.modality == "text" and TOKENIZER_FILES[0] in files:
        return Companion(texts=Texts(spec.reference, plan.model_type, files))
    return None


def _pictures(spec: BackboneSpec, plan: Plan, source: Source, *, read: bool, size: tuple[int, int] | None) -> Companion:
    """Make the image processor that a source brings, or the default one of a bare type."""
    who = spec.reference
    if source.kind != "type" and not read:
        return Companion(reason=_unread(who, "image processor", source), size=size)
    try:
        found = found_processor(source)
        if found is None and source.kind != "type":
            return Companion(reason=without_processor(who, source.name), size=size)
        return Companion(pictures=Pictures(who, plan.model_type, found or {}, spec.inputs[0], size), size=size)
    except (ConfigError, WeightsError) as error:
        return Companion(reason=str(error), size=size)


def _tokenizer(who: str, plan: Plan, source: Source) -> Companion:
    if source.file(TOKENIZER_FILES[0]) is None:
        there = [name for name in SLOW_FILES if source.kind == "folder" and source.file(name) is not None]
        return Companion(reason=without_tokenizer(who, source.name, there))
    found = {name: source.file(name) for name in TOKENIZER_FILES}
    files = {name: path.read_bytes() for name, path in found.items() if path is not None}
    return Companion(texts=Texts(who, plan.model_type, files))


def _extractor(who: str, plan: Plan, source: Source) -> Companion:
    said = nested_extractor(source.json("processor_config.json")) or source.json(EXTRACTOR_FILE)
    if said is None:
        return Companion(reason=without_extractor(who, source.name))
    return Companion(sounds=Sounds.read(who, plan.model_type, json.dumps(said).encode("utf-8")))


def _default(who: str, plan: Plan) -> Companion:
    """Make the extractor of a bare type, with its own defaults, if it gives what the type takes."""
    sequence = plan.rule.sequence or Sequence()
    try:
        sounds = Sounds(who, plan.model_type, None)
    except ConfigError as error:
        return Companion(reason=str(error))
    if sounds.extractor.model_input_names[0] != sequence.argument:
        return Companion(reason=without_extractor(who, plan.model_type))
    return Companion(sounds=sounds)
