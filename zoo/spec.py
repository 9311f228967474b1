"""Specs: what is known of a backbone, a head and a model before any weight is loaded.

Frozen dataclasses inside; at the boundary of a file they are read and written strictly (:mod:`zoo.strict`). One spec,
three uses: ``build`` eats it, ``save`` writes it, ``load`` reads it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from zoo.errors import ConfigError, UnknownName
from zoo.preprocessing import Preprocessing
from zoo.rounded import Quantized

__all__ = [
    "BackboneSpec",
    "HeadSpec",
    "InputSpec",
    "ModelSpec",
    "Modality",
    "Quantized",
    "StageSpec",
    "StreamSpec",
    "Want",
]

Modality = Literal["image", "text", "audio", "video", "image-text"]
InputKind = Literal["image", "tokens", "mask", "waveform", "spectrogram", "video"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """One tensor that a backbone takes.

    Args:
        name: The keyword by which it is passed.
        kind: What it holds; two libraries may use one name for different kinds. A waveform is ``(B, samples)`` of one
            channel, a spectrogram ``(B, bins, steps)``.
        rank: Number of dimensions, the batch included.
        channels: Size of dimension 1, or None where there is none.
        size: Height and width that the weights were trained at, in pixels; None for text and sound.
        fixed_size: Whether ``size`` is the only one that is accepted.
        divisor: Height and width must be multiples of this.
        least: Least height and width in pixels.
        length: Number of tokens, samples or steps that it takes at the most, or of frames that the weights were trained
            with; None if there is no limit.
        fixed_length: Whether ``length`` is the only one that is accepted.
        dtype: ``float32`` or ``int64``.
        required: Whether it must be given.
    """

    name: str
    kind: InputKind
    rank: int
    channels: int | None = None
    size: tuple[int, int] | None = None
    fixed_size: bool = False
    divisor: int = 1
    least: int = 1
    length: int | None = None
    fixed_length: bool = False
    dtype: str = "float32"
    required: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """One stage of a backbone: the unit for maps, freezing, learning rates and fusion.

    Args:
        name: ``stem``, ``s1`` … ``sN`` or ``post``, in the order of execution.
        module: Path in the native module where the stage ends; empty for ``post``.
        channels: Channels of the stage's map; None if the stage gives none.
        reduction: Input size divided by map size; None if the stage gives no map.
    """

    name: str
    module: str = ""
    channels: int | None = None
    reduction: float | None = None

    @property
    def level(self) -> int | None:
        """Pyramid level: ``log2(reduction)`` if that is whole, so ``P3`` has reduction 8."""
        reduction = self.reduction
        if reduction is None or reduction < 1 or reduction != int(reduction):
            return None
        whole = int(reduction)
        return whole.bit_length() - 1 if whole & (whole - 1) == 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneSpec:
    """What a backbone takes and gives; known before its weights are loaded.

    Args:
        reference: The resolved reference, with tag and revision.
        provider: Name of the plugin that builds it.
        architecture: The library's own name for it.
        library: Distribution whose code runs, such as ``timm``.
        library_version: Its version when the spec was made.
        modality: What it looks at.
        inputs: The tensors that it takes; the first is the main one.
        pooled_dim: Width of the pooled vector.
        token_dim: Width of a token; None if it has no tokens.
        prefix_tokens: Class and register tokens in front of the others.
        stages: Stages in the order of execution, ``stem`` first.
        capabilities: Of ``pooled``, ``maps``, ``tokens``, ``mask``, ``embed``, ``in_channels``, ``dynamic_size``,
            ``grad_checkpointing``; sorted.
        norms: Kinds of normalisation layers: ``batch``, ``layer``, ``group``, ``instance``, ``rms``; sorted.
        parameters: Number of parameters without a classifier.
        pooling: The rule that gives the pooled vector, in the library's or the field's words.
        weights: Where the weights come from, for a reader; None for random ones.
        license: SPDX identifier of the weights where the library states one.
        preprocessing: From a picture to the input; None where pictures are not the input.
        construction: All that the provider needs to build the module again without a network.
        widths: How layers of a pruned backbone differ from the provider's: path to the sizes that differ, such as
            ``{"out_channels": 40}``. ``pooled_dim`` and whatever else has to do with widths is that after pruning.
        quantized: Where it rounds to eight bits; None for nowhere.
    """

    reference: str
    provider: str
    architecture: str
    library: str
    library_version: str
    modality: Modality
    inputs: tuple[InputSpec, ...]
    pooled_dim: int
    token_dim: int | None = None
    prefix_tokens: int = 0
    stages: tuple[StageSpec, ...]
    capabilities: tuple[str, ...]
    norms: tuple[str, ...] = ()
    parameters: int
    pooling: str
    weights: str | None = None
    license: str | None = None
    preprocessing: Preprocessing | None = None
    construction: Mapping[str, Any] = field(default_factory=dict)
    widths: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    quantized: Quantized | None = None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Leave what came later unwritten where there is none, so that readers from before it read the others."""
        from pydantic_core.core_schema import wrap_serializer_function_ser_schema as written

        later = "widths", "quantized"
        how = written(lambda spec, write: {k: v for k, v in write(spec).items() if v or k not in later})
        return {**handler(source), "serialization": how}

    @property
    def maps(self) -> tuple[StageSpec, ...]:
        """The stages that give a map."""
        return tuple(stage for stage in self.stages if stage.channels is not None)

    def stage(self, name: str) -> StageSpec:
        """Find a stage by name.

        Raises:
            UnknownName: If the backbone has no such stage.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        known = ", ".join(stage.name for stage in self.stages)
        raise UnknownName(f"{self.reference} has no stage {name!r}; its stages are {known}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSpec:
    """A head as data: its type, its name, and the settings that its type understands.

    Args:
        type: Name under which a plugin registers the head.
        name: Name of its output; letters, digits, ``_`` and ``-``.
        config: Settings, JSON only; a combinator's holds the specs of the heads inside it.
    """

    type: str
    name: str
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the name, which becomes a folder in the bundle."""
        check_name("head", self.name)

    @classmethod
    def of(cls, head: HeadSpec | str | Mapping[str, Any]) -> HeadSpec:
        """Read a head from a spec, a type's name, or a dict with ``type``, ``name`` and settings.

        Raises:
            ConfigError: If it is none of these.

        Example:
            >>> HeadSpec.of({"type": "classifier", "name": "species", "classes": ["cat", "dog"]}).config
            {'classes': ['cat', 'dog']}
        """
        if isinstance(head, HeadSpec):
            return head
        if isinstance(head, str):
            return cls(type=head, name=head)
        if isinstance(head, Mapping) and isinstance(head.get("type"), str):
            config = {key: value for key, value in head.items() if key not in ("type", "name")}
            return cls(type=head["type"], name=head.get("name", head["type"]), config=config)
        raise ConfigError(f"A head must be a HeadSpec, a type's name or a dict with 'type', got {head!r}.")

    def flat(self) -> dict[str, Any]:
        """Write it as the one dict that :meth:`of` reads."""
        return {"type": self.type, "name": self.name, **self.config}

    def with_config(self, **changes: Any) -> HeadSpec:
        """Copy it with some settings replaced."""
        return replace(self, config={**self.config, **changes})


@dataclass(frozen=True, slots=True)
class Want:
    """Which features one forward pass must give; the heads' needs fix it when a model is built.

    Args:
        pooled: Whether to give the pooled vector.
        tokens: Whether to give tokens, prefix and grid.
        maps: Names of the stages whose maps to give.
        embed: Whether to give the projected vector of a dual-tower model.
    """

    pooled: bool = True
    tokens: bool = False
    maps: tuple[str, ...] = ()
    embed: bool = False

    def __or__(self, other: Want) -> Want:
        """Ask for what either asks."""
        return Want(
            pooled=self.pooled or other.pooled,
            tokens=self.tokens or other.tokens,
            maps=tuple(dict.fromkeys((*self.maps, *other.maps))),
            embed=self.embed or other.embed,
        )

    def __le__(self, other: Want) -> bool:
        """Say whether the other asks for all that this asks for."""
        flags = (self.pooled, other.pooled), (self.tokens, other.tokens), (self.embed, other.embed)
        return all(ours <= theirs for ours, theirs in flags) and set(self.maps) <= set(other.maps)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """One backbone of a model and the input that feeds it.

    Args:
        backbone: The backbone.
        input: Name of the input; streams that name the same input share it.
        keep: What the heads read of it; layers that none of this runs through are cut off. None for the whole
            backbone, where no head reads it.
        shares: The stream whose very module this one runs, as the two sides of a siamese network do; None for a module
            of its own.
    """

    backbone: BackboneSpec
    input: str = "image"
    keep: Want | None = None
    shares: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A whole model as data: streams by name, and the heads on them.

    Args:
        streams: Stream name to backbone; one stream is called ``main`` unless it is named.
        heads: The heads, in order; their names are unique.
    """

    streams: Mapping[str, StreamSpec]
    heads: tuple[HeadSpec, ...]

    def __post_init__(self) -> None:
        """Check that names are usable and unique."""
        if not self.streams:
            raise ConfigError("A model must have at least one stream, got none.")
        inputs = {entry.input for entry in self.streams.values()}
        for name, entry in self.streams.items():
            check_name("stream", name)
            check_name("input", entry.input)
            if "present" in (name, entry.input):
                raise ConfigError("No stream or input may be called 'present', which says which samples have an input.")
            self._check_stream(name, entry, inputs)
        for name, count in Counter(head.name for head in self.heads).items():
            if count > 1:
                raise ConfigError(f"Two heads are called {name!r}; give each its own name.")

    def _check_stream(self, name: str, entry: StreamSpec, inputs: set[str]) -> None:
        """Refuse a stream whose name is an input of others, or that shares what it cannot."""
        if entry.input != name and name in inputs:
            raise ConfigError(f"The stream {name!r} is called like an input that it does not read; rename one of them.")
        if entry.shares is None:
            return
        owner = self.streams.get(entry.shares)
        if owner is None or owner.shares is not None or owner is entry:
            owners = ", ".join(one for one, other in self.streams.items() if other.shares is None) or "none"
            raise ConfigError(
                f"The stream {name!r} shares the module of {entry.shares!r}; those with one of their own: {owners}."
            )
        if (owner.backbone, owner.keep) != (entry.backbone, entry.keep):
            raise ConfigError(
                f"The streams {entry.shares!r} and {name!r} share one module, and their descriptions differ."
            )

    @property
    def modalities(self) -> dict[str, str]:
        """Input name to what its samples are, such as ``image``."""
        return {entry.input: entry.backbone.modality for entry in self.streams.values()}

    def owner(self, stream: str) -> str:
        """Name the stream whose module a stream runs: itself, or the one that it shares."""
        return self.streams[stream].shares or stream


def check_name(what: str, name: str) -> None:
    """Refuse a name that could not be a folder, a column and a key at once.

    Raises:
        ConfigError: If it has other characters than letters, digits, ``_`` and ``-``, or is longer than 64.
    """
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise ConfigError(f"A {what}'s name must be 1 to 64 letters, digits, '_' or '-', got {name!r}.")


_STRICT = {"extra": "forbid", "allow_inf_nan": False}
for _spec in (Preprocessing, InputSpec, StageSpec, BackboneSpec, HeadSpec, Want, StreamSpec, ModelSpec):
    setattr(_spec, "__pydantic_config__", _STRICT)  # noqa: B010 - pydantic reads it, the dataclass does not know it
