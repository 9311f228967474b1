"""What heads on several streams share: which streams they read, what a sample lacks, and the head inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.contracts.features import Features
from zoo.contracts.head import Head, HeadContext, Needs
from zoo.errors import CapabilityError, ConfigError, DataError, UnknownName, nearest
from zoo.spec import BackboneSpec, HeadSpec
from zoo_heads.fusing import Bilinear, Concat, Fuser, FuserSettings, Gated, Sum
from zoo_heads.map_fusing import Maps
from zoo_heads.token_fusing import Attention

__all__ = ["FUSED", "METHODS", "FusionPlan", "Missing", "chosen_streams", "given_streams", "inner_head", "told"]

FUSED = "fused"
"""Name of the one stream that the head inside reads."""

METHODS: Mapping[str, type[Fuser]] = {one.method: one for one in (Attention, Bilinear, Concat, Gated, Maps, Sum)}

Missing = Literal["error", "mask"]


def told(spec: HeadSpec) -> str:
    """Name a head in a message."""
    return f"The head {spec.name!r} ({spec.type})"


def chosen_streams(
    spec: HeadSpec, names: tuple[str, ...] | None, streams: Mapping[str, BackboneSpec]
) -> dict[str, BackboneSpec]:
    """Choose the streams that a head reads; all of them if it names none.

    Raises:
        UnknownName: If a stream is not the model's.
        ConfigError: If they are fewer than two, or one is named twice.
    """
    chosen = tuple(streams) if names is None else names
    for name in chosen:
        if name not in streams:
            near = nearest(name, streams)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UnknownName(f"{told(spec)} reads the stream {name!r}; the model has {', '.join(streams)}.{hint}")
        if chosen.count(name) > 1:
            raise ConfigError(f"{told(spec)} names the stream {name!r} twice.")
    if len(chosen) < 2:
        raise ConfigError(
            f"{told(spec)} fuses two streams or more, got {', '.join(chosen) or 'none'}; build the model with several "
            "backbones by name, zoo.build({'rgb': …, 'flow': …}, …)."
        )
    return {name: streams[name] for name in chosen}


def given_streams(
    spec: HeadSpec, streams: tuple[str, ...], features: Mapping[str, Features], missing: Missing
) -> tuple[dict[str, Features], Tensor | None]:
    """Give the features of a head's streams, zeros in place of what a sample lacks, and which sample has which stream.

    Returns:
        Stream name to features, and ``(B, k)`` bool in the order of the streams; None in its place if all have all.

    Raises:
        DataError: If a sample lacks a stream, and the head does not take that.
    """
    there = {name: one for name in streams if (one := features[name].present) is not None}
    if not there:
        return {name: features[name] for name in streams}, None
    if missing == "error":
        for name, one in there.items():
            if not bool(one.all()):
                raise DataError(f"{told(spec)} got a sample without {name!r}; set missing='mask' to allow that.")
        return {name: features[name] for name in streams}, None
    every = torch.ones_like(next(iter(there.values())))
    given = {n: _cleared(features[n], there[n]) if n in there else features[n] for n in streams}
    return given, torch.stack([there.get(name, every) for name in streams], dim=1)


def _cleared(features: Features, present: Tensor) -> Features:
    """Put zeros in place of what means nothing."""

    def clear(x: Tensor | None) -> Tensor | None:
        return None if x is None else torch.where(present.reshape(-1, *[1] * (x.ndim - 1)), x, torch.zeros_like(x))

    maps = {name: torch.where(present[:, None, None, None], x, 0) for name, x in features.maps.items()}
    return replace(
        features,
        pooled=clear(features.pooled),
        tokens=clear(features.tokens),
        prefix=clear(features.prefix),
        embed=clear(features.embed),
        maps=maps,
    )


def inner_head(spec: HeadSpec, head: Mapping[str, Any]) -> HeadSpec:
    """Read the head inside, which is called like the one around it unless it has a name.

    Raises:
        ConfigError: If it, or a head inside it, says which stream it reads.
    """
    for one in _heads_in(head):
        named = one.get("stream") or one.get("streams")
        if named is not None:
            who = one.get("name", one["type"])
            raise ConfigError(
                f"{told(spec)}: the head {who!r} inside it names the stream {named!r}; leave that out, only the outer "
                "head says which streams are read."
            )
    return HeadSpec.of({"name": spec.name, **head})


def _heads_in(value: Any) -> Iterator[Mapping[str, Any]]:
    """Give every dict in a tree of settings that describes a head."""
    if isinstance(value, Mapping):
        if "type" in value:
            yield value
        for item in value.values():
            yield from _heads_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _heads_in(item)


@dataclass(frozen=True, slots=True)
class FusionPlan:
    """How several streams become the one that the head inside reads; known before any weights are loaded.

    Args:
        streams: The streams that are fused.
        kind: The fuser's class.
        settings: Its settings.
        inner: The head inside.
        context: What that head may know: one stream called ``fused``.
        asked: What it reads of that.
    """

    streams: Mapping[str, BackboneSpec]
    kind: type[Fuser]
    settings: FuserSettings
    inner: HeadSpec
    context: HeadContext
    asked: Needs

    @classmethod
    def make(
        cls,
        spec: HeadSpec,
        inner: HeadSpec,
        streams: Mapping[str, BackboneSpec],
        method: str,
        settings: FuserSettings,
        context: HeadContext,
    ) -> FusionPlan:
        """Plan a fusion.

        Raises:
            CapabilityError: If the head inside reads what the method does not give.
        """
        kind = METHODS[method]
        within = HeadContext({FUSED: kind.describe(streams, settings)}, context.lookup)
        asked = within.needs(inner).get(FUSED, Needs())
        read = {"pooled": asked.pooled, "tokens": asked.tokens, "maps": bool(asked.reductions), "embed": asked.embed}
        for what, wanted in read.items():
            if wanted and what not in kind.gives:
                others = [name for name, one in METHODS.items() if what in one.gives]
                hint = f"; methods of feature_fusion that give it: {', '.join(others)}" if others else ""
                raise CapabilityError(
                    f"{told(spec)}: {inner.name!r} ({inner.type}) inside it reads {what}, and fusion by {method} gives "
                    f"{' and '.join(kind.gives)}{hint}."
                )
        return cls(streams, kind, settings, inner, within, asked)

    def needs(self) -> Mapping[str, Needs]:
        """Say what it asks of each stream."""
        return self.kind.reads(self.streams, self.asked)

    def build(self) -> tuple[Fuser, Head]:
        """Make the fuser and the head inside."""
        return self.kind(self.streams, self.settings, self.asked), self.context.build(self.inner)
