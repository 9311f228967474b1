"""Fusing the maps of several streams, reduction by reduction."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.contracts.features import Features
from zoo.contracts.head import Needs
from zoo.contracts.modules import ModuleMap
from zoo.errors import CapabilityError
from zoo.spec import BackboneSpec, StageSpec
from zoo_heads.fusing import Fuser, FuserSettings, Streams, fused_spec, scaled_sum
from zoo_heads.token_fusing import stage_at

__all__ = ["Level", "Maps", "common_reductions"]


class Level(nn.Module):
    """The maps of all streams at one reduction, made one.

    Each map ``x_i`` goes through a 1×1 convolution, ``m_i = W_i * x_i + b_i``, and is resized bilinearly to the finest
    grid among them. Then, at each position,

    - ``sum``: ``Σ_i m_i``, scaled by ``k / present`` where a sample lacks streams;
    - ``concat``: ``[m_1, …, m_k]``, zeros for a stream that a sample lacks;
    - ``attention``: ``Σ_i a_i m_i`` with ``a = softmax_i(v · m_i)`` over the streams that a sample has, ``v`` learnt.

    Args:
        channels: Stream name to the channels of its map.
        dim: Channels of each ``m_i``.
        how: ``sum``, ``concat`` or ``attention``.

    Shape:
        - maps: ``(B, C_i, H_i, W_i)``; present: ``(B, k)``, bool, or None.
        - returns: ``(B, dim, H, W)``, ``(B, k * dim, H, W)`` with ``concat``; H and W are the largest of the streams'.
    """

    def __init__(self, channels: Mapping[str, int], dim: int, how: str) -> None:
        super().__init__()
        self.how = how
        self.project = ModuleMap({name: nn.Conv2d(count, dim, 1) for name, count in channels.items()})
        self.value = nn.Conv2d(dim, 1, 1, bias=False) if how == "attention" else None

    def forward(self, maps: Mapping[str, Tensor], present: Tensor | None) -> Tensor:
        """Fuse the maps, given by stream in the order of the streams."""
        height = max(one.shape[-2] for one in maps.values())
        width = max(one.shape[-1] for one in maps.values())
        parts = torch.stack([_resized(self.project[name](x), height, width) for name, x in maps.items()], dim=1)
        there = None if present is None else present[:, :, None, None, None]
        if self.value is not None:
            scores = self.value(parts.flatten(0, 1)).unflatten(0, parts.shape[:2])
            if there is not None:
                scores = scores.masked_fill(~there & there.any(dim=1, keepdim=True), float("-inf"))
            return (scores.softmax(dim=1) * parts).sum(dim=1)
        if self.how == "concat":
            return (parts if there is None else torch.where(there, parts, 0)).flatten(1, 2)
        return parts.sum(dim=1) if present is None else scaled_sum(parts, present)


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    if x.shape[-2:] == (height, width):
        return x
    return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)


class Maps(Fuser):
    """The maps of all streams at each reduction that the head inside reads, each fused by a :class:`Level`.

    It gives the reductions that all streams have. A head that reads the pooled vector gets the mean of the coarsest
    fused map over its positions.
    """

    method = "maps"
    gives = ("maps", "pooled")
    options = ("dim", "maps")

    def __init__(self, streams: Streams, settings: FuserSettings, asked: Needs) -> None:
        super().__init__(streams, settings, asked)
        described = self.describe(streams, settings)
        self.top = described.maps[-1].name
        self.sources: dict[str, dict[str, str]] = {}
        levels = {}
        for reduction in _wanted(streams, asked):
            stage = stage_at(described, reduction)
            if stage is None:
                raise _not_there(streams, reduction)
            found = {name: stage_at(spec, reduction) for name, spec in streams.items()}
            self.sources[stage.name] = {name: one.name for name, one in found.items() if one is not None}
            channels = {name: one.channels or 0 for name, one in found.items() if one is not None}
            levels[stage.name] = Level(channels, settings.dim, settings.maps)
        self.levels = ModuleMap(levels)

    @classmethod
    def reads(cls, streams: Streams, asked: Needs) -> Mapping[str, Needs]:
        """Read the same reductions of every stream."""
        return {name: Needs(reductions=_wanted(streams, asked)) for name in streams}

    @classmethod
    def describe(cls, streams: Streams, settings: FuserSettings) -> BackboneSpec:
        """Describe a stream with the maps that all streams have.

        Raises:
            CapabilityError: If the streams have no reduction in common.
        """
        common = common_reductions(streams)
        if not common:
            told = "; ".join(f"{name} has {_told(spec)}" for name, spec in streams.items())
            raise CapabilityError(f"Fusion of maps needs a reduction that all streams have: {told}.")
        channels = settings.dim * (len(streams) if settings.maps == "concat" else 1)
        stages = tuple(
            StageSpec(name=f"s{number}", channels=channels, reduction=float(reduction))
            for number, reduction in enumerate(common, start=1)
        )
        return fused_spec(streams, "maps", pooled_dim=channels, stages=stages, capabilities=("maps", "pooled"))

    def forward(self, features: Mapping[str, Features], present: Tensor | None) -> Features:
        """Fuse the maps, reduction by reduction."""
        fused = {}
        for stage, level in self.levels.items():
            fused[stage] = level({name: self._map(name, one, stage) for name, one in features.items()}, present)
        pooled = fused[self.top].mean(dim=(-2, -1)) if self.asked.pooled else None
        return Features(pooled=pooled, maps=fused)

    def _map(self, stream: str, features: Features, stage: str) -> Tensor:
        name = self.sources[stage][stream]
        if name not in features.maps:
            raise CapabilityError(f"Fusion of maps needs the map {name!r} of {stream!r}, and it was not computed.")
        return features.maps[name]


def common_reductions(streams: Streams) -> tuple[int, ...]:
    """Give the whole reductions of which every stream has a map, finest first."""
    return tuple(sorted(set.intersection(*map(_reductions, streams.values()))))


def _reductions(spec: BackboneSpec) -> set[int]:
    found = {stage.reduction for stage in spec.maps if stage.reduction is not None}
    return {int(reduction) for reduction in found if reduction == int(reduction)}


def _wanted(streams: Streams, asked: Needs) -> tuple[int, ...]:
    top = common_reductions(streams)[-1:] if asked.pooled else ()
    return tuple(sorted({*asked.reductions, *top}))


def _told(spec: BackboneSpec) -> str:
    return ", ".join(map(str, sorted(_reductions(spec)))) or "none"


def _not_there(streams: Streams, reduction: int) -> CapabilityError:
    name, spec = next((name, spec) for name, spec in streams.items() if stage_at(spec, reduction) is None)
    return CapabilityError(
        f"Fusion of maps needs a map at reduction {reduction} of every stream; {name!r} ({spec.reference}) has "
        f"{_told(spec)}."
    )
