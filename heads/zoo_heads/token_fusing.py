"""Fusing the tokens of several streams by attention."""

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
from zoo_heads.fusing import Fuser, FuserSettings, Streams, fused_spec

__all__ = ["Attention", "coarsest", "stage_at"]


class Attention(Fuser):
    """The tokens of all streams and a learnt query, mixed by one transformer layer.

    Tokens are projected to ``dim`` channels, and a learnt vector of their stream is added. With the query in front
    they go through a layer that normalises first, ``y = x + A(norm(x))`` and ``z = y + M(norm(y))`` with a perceptron
    ``M`` of ``2 * dim`` hidden channels and GELU, and a last norm. Where the query stood is the fused pooled vector.
    Padding, and tokens of a stream that a sample lacks, are looked at by none. A stream without tokens, such as a
    convolutional network, brings the positions of its coarsest map.

    Shape:
        - streams: tokens ``(B, N_i, C_i)``, or maps ``(B, C_i, H_i, W_i)`` with ``N_i = H_i * W_i``.
        - fused: ``pooled`` ``(B, dim)``; ``tokens`` ``(B, N_1 + … + N_k, dim)``, ``mask`` where some are not real.

    Source:
        Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, the encoder's layer; ours normalises first.
    """

    method = "attention"
    gives = ("pooled", "tokens")
    options = ("dim", "attention_heads")

    def __init__(self, streams: Streams, settings: FuserSettings, asked: Needs) -> None:
        super().__init__(streams, settings, asked)
        dim = settings.dim
        self.maps = {name: None if _has_tokens(spec) else _map_of(name, spec).name for name, spec in streams.items()}
        self.project = ModuleMap({name: nn.Linear(_width(name, spec), dim) for name, spec in streams.items()})
        self.origin = nn.Parameter(torch.randn(len(streams), dim) * 0.02)
        self.query = nn.Parameter(torch.randn(dim) * 0.02)
        self.norm_mix = nn.LayerNorm(dim)
        self.mix = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.norm_feed = nn.LayerNorm(dim)
        self.feed = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.norm = nn.LayerNorm(dim)

    @classmethod
    def reads(cls, streams: Streams, asked: Needs) -> Mapping[str, Needs]:
        """Read the tokens of each stream, or its coarsest map."""
        needs = {}
        for name, spec in streams.items():
            top = None if _has_tokens(spec) else coarsest(spec)
            needs[name] = Needs(tokens=True) if top is None else Needs(reductions=(int(top.reduction or 0),))
        return needs

    @classmethod
    def describe(cls, streams: Streams, settings: FuserSettings) -> BackboneSpec:
        """Describe a stream with a pooled vector and tokens."""
        return fused_spec(
            streams,
            "attention",
            pooled_dim=settings.dim,
            token_dim=settings.dim,
            capabilities=("pooled", "tokens", "mask"),
        )

    def forward(self, features: Mapping[str, Features], present: Tensor | None) -> Features:
        """Mix the tokens of all streams."""
        tokens, masks = [], []
        for index, (name, one) in enumerate(features.items()):
            found = self._tokens(name, one)
            tokens.append(self.project[name](found) + self.origin[index].to(found.dtype))
            real = found.new_ones(found.shape[:2], dtype=torch.bool) if one.mask is None else one.mask.bool()
            masks.append(real if present is None else real & present[:, index, None])
        together = torch.cat(tokens, dim=1)
        some = present is not None or any(one.mask is not None for one in features.values())
        mask = torch.cat(masks, dim=1) if some else None
        query = self.query.to(together.dtype).expand(len(together), 1, -1)
        mixed = self._layer(torch.cat([query, together], dim=1), mask)
        return Features(pooled=mixed[:, 0], tokens=mixed[:, 1:], mask=mask)

    def _tokens(self, name: str, features: Features) -> Tensor:
        stage = self.maps[name]
        found = features.tokens if stage is None else features.maps.get(stage)
        if found is None:
            what = "tokens" if stage is None else f"map {stage!r}"
            raise CapabilityError(f"Fusion by attention needs the {what} of the stream {name!r}; it was not computed.")
        return found if stage is None else found.flatten(2).transpose(1, 2)

    def _layer(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Mix a sequence whose first element is always real.

        Shape:
            - ``x``: ``(B, 1 + N, dim)``; ``mask``: ``(B, N)``, bool.
        """
        seen = None if mask is None else F.pad(mask, (1, 0), value=True)[:, None, None, :]
        parts = self.mix(self.norm_mix(x)).unflatten(2, (3, self.settings.attention_heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return self.norm(x + self.feed(self.norm_feed(x)))


def coarsest(spec: BackboneSpec) -> StageSpec | None:
    """Give the last of the maps with the largest whole reduction; None if there is no such map."""
    whole = [stage for stage in spec.maps if stage.reduction == int(stage.reduction or 0) and stage.reduction]
    return max(reversed(whole), key=lambda stage: stage.reduction or 0, default=None)


def stage_at(spec: BackboneSpec, reduction: int) -> StageSpec | None:
    """Give the last stage with a map of this reduction, the one that a model gives for it; None if none has."""
    return next((stage for stage in reversed(spec.maps) if stage.reduction == reduction), None)


def _has_tokens(spec: BackboneSpec) -> bool:
    return "tokens" in spec.capabilities and spec.token_dim is not None


def _map_of(name: str, spec: BackboneSpec) -> StageSpec:
    stage = coarsest(spec)
    if stage is None:
        raise CapabilityError(f"Fusion by attention reads tokens or maps; {name!r} ({spec.reference}) gives neither.")
    return stage


def _width(name: str, spec: BackboneSpec) -> int:
    width = spec.token_dim if _has_tokens(spec) else _map_of(name, spec).channels
    return width or 0
