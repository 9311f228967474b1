"""Fusing the pooled vectors of several streams: concatenation, sum, gates and low-rank bilinear pooling."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from zoo.contracts.features import Features
from zoo.contracts.head import Needs
from zoo.contracts.modules import ModuleMap
from zoo.errors import CapabilityError
from zoo.spec import BackboneSpec, StageSpec

__all__ = ["Bilinear", "Concat", "Fuser", "FuserSettings", "Gated", "PooledFuser", "Sum", "fused_spec"]

Streams = Mapping[str, BackboneSpec]


@dataclass(frozen=True, slots=True)
class FuserSettings:
    """What a fuser is made by; each reads its own part.

    Args:
        dim: Width of what is fused, 1 or more.
        maps: How maps of one reduction are joined: ``sum``, ``concat`` or ``attention``.
        attention_heads: Heads of the attention over tokens; a divisor of ``dim``.
    """

    dim: int = 256
    maps: str = "sum"
    attention_heads: int = 4


class Fuser(nn.Module, ABC):
    """The features of several streams in, those of one fused stream out.

    A sample may lack the input of some streams: what stands for it was set to 0, and ``present`` says so. A fuser lets
    it have no part in what is fused, and gives finite numbers even where a sample has no stream at all.

    Args:
        streams: Stream name to the spec of its backbone, 2 or more.
        settings: Widths and variants.
        asked: What the head inside reads of the fused stream; nothing else needs to be given.
    """

    method: ClassVar[str]
    """Its name in the settings."""
    gives: ClassVar[tuple[str, ...]] = ("pooled",)
    """Of ``pooled``, ``tokens`` and ``maps``."""
    options: ClassVar[tuple[str, ...]] = ()
    """The settings that it reads."""

    def __init__(self, streams: Streams, settings: FuserSettings, asked: Needs) -> None:
        super().__init__()
        self.streams = tuple(streams)
        self.settings = settings
        self.asked = asked

    @classmethod
    @abstractmethod
    def reads(cls, streams: Streams, asked: Needs) -> Mapping[str, Needs]:
        """Say what it asks of each stream, for what the head inside asks of the fused one."""

    @classmethod
    @abstractmethod
    def describe(cls, streams: Streams, settings: FuserSettings) -> BackboneSpec:
        """Describe the fused stream; called before any weights are loaded."""

    @abstractmethod
    def forward(self, features: Mapping[str, Features], present: Tensor | None) -> Features:
        """Fuse a batch.

        Args:
            features: Stream name to features, in the order of the streams.
            present: Which samples have which stream; None if all have all.

        Shape:
            - ``present``: ``(B, k)``, bool, in the order of the streams.
        """


def fused_spec(
    streams: Streams,
    how: str,
    *,
    pooled_dim: int,
    token_dim: int | None = None,
    stages: tuple[StageSpec, ...] = (),
    capabilities: tuple[str, ...] = ("pooled",),
) -> BackboneSpec:
    """Describe a fused stream as if it were a backbone; its input is that of the first stream."""
    first = next(iter(streams.values()))
    return replace(
        first,
        reference=f"{how}({', '.join(spec.reference for spec in streams.values())})",
        provider="fused",
        architecture=how,
        pooled_dim=pooled_dim,
        token_dim=token_dim,
        prefix_tokens=0,
        stages=(StageSpec(name="stem"), *stages, StageSpec(name="post")),
        capabilities=tuple(sorted(capabilities)),
        norms=(),
        parameters=sum(spec.parameters for spec in streams.values()),
        pooling=how,
        weights=None,
        license=None,
        preprocessing=None,
        construction={},
    )


class PooledFuser(Fuser):
    """A fuser of pooled vectors.

    Shape:
        - streams: ``(B, D_i)`` each.
        - fused: ``pooled`` of ``(B, dim)``, or what :meth:`width` says.
    """

    @classmethod
    def reads(cls, streams: Streams, asked: Needs) -> Mapping[str, Needs]:
        """Read the pooled vectors."""
        return {name: Needs(pooled=True) for name in streams}

    @classmethod
    def describe(cls, streams: Streams, settings: FuserSettings) -> BackboneSpec:
        """Describe a stream with a pooled vector and nothing else."""
        return fused_spec(streams, cls.method, pooled_dim=cls.width(streams, settings))

    @classmethod
    def width(cls, streams: Streams, settings: FuserSettings) -> int:
        """Give the width of the fused vector."""
        return settings.dim

    def forward(self, features: Mapping[str, Features], present: Tensor | None) -> Features:
        """Fuse the pooled vectors."""
        return Features(pooled=self.join([_pooled(name, one) for name, one in features.items()], present))

    @abstractmethod
    def join(self, vectors: Sequence[Tensor], present: Tensor | None) -> Tensor:
        """Make one vector of those of the streams."""


def _pooled(stream: str, features: Features) -> Tensor:
    if features.pooled is None:
        raise CapabilityError(f"Fusion needs the pooled vector of the stream {stream!r}, and it was not computed.")
    return features.pooled


class Concat(PooledFuser):
    """The vectors one after the other, ``[x_1, …, x_k]``; zeros for a stream that a sample lacks."""

    method = "concat"

    @classmethod
    def width(cls, streams: Streams, settings: FuserSettings) -> int:
        """Give the sum of the streams' widths."""
        return sum(spec.pooled_dim for spec in streams.values())

    def join(self, vectors: Sequence[Tensor], present: Tensor | None) -> Tensor:
        """Put them one after the other."""
        return torch.cat(list(vectors), dim=1)


class Sum(PooledFuser):
    """The sum of linear projections, ``Σ_i (W_i x_i + b_i)``.

    Of a sample that lacks streams, the others are summed and scaled by ``k / present``, so that its size stays.
    """

    method = "sum"
    options = ("dim",)

    def __init__(self, streams: Streams, settings: FuserSettings, asked: Needs) -> None:
        super().__init__(streams, settings, asked)
        self.project = ModuleMap({name: nn.Linear(one.pooled_dim, settings.dim) for name, one in streams.items()})

    def join(self, vectors: Sequence[Tensor], present: Tensor | None) -> Tensor:
        """Project and add them."""
        parts = torch.stack([layer(x) for layer, x in zip(self.project.values(), vectors, strict=True)], dim=1)
        return parts.sum(dim=1) if present is None else scaled_sum(parts, present)


def scaled_sum(parts: Tensor, present: Tensor) -> Tensor:
    """Sum what is there along dimension 1, times the number of all parts over the number of those that are there.

    Shape:
        - ``parts``: ``(B, k, …)``; ``present``: ``(B, k)``, bool.
        - returns: ``(B, …)``; zeros where a sample has no part.
    """
    there = present.reshape(*present.shape, *[1] * (parts.ndim - 2))
    scale = parts.shape[1] / there.sum(dim=1).clamp(min=1)
    return torch.where(there, parts, 0).sum(dim=1) * scale.to(parts.dtype)


class Gated(PooledFuser):
    """Gated multimodal units: each stream passes as much as a gate lets it that sees all streams.

    ``h_i = tanh(W_i x_i)`` and, with ``c = [x_1, …, x_k]``,

    - for 2 streams ``z = sigmoid(W_z c)`` and ``h = z * h_1 + (1 - z) * h_2``;
    - for more ``z_i = sigmoid(W_zi c)`` and ``h = Σ_i z_i * h_i``.

    The gate of a stream that a sample lacks is closed; with 2 streams that of the other is then open.

    Source:
        Arevalo et al., "Gated Multimodal Units for Information Fusion", 2017, arXiv:1702.01992. As in its equations
        no layer has a bias.
    """

    method = "gated"
    options = ("dim",)

    def __init__(self, streams: Streams, settings: FuserSettings, asked: Needs) -> None:
        super().__init__(streams, settings, asked)
        dim, count, total = settings.dim, len(streams), sum(one.pooled_dim for one in streams.values())
        hidden = {name: nn.Linear(one.pooled_dim, dim, bias=False) for name, one in streams.items()}
        self.hidden = ModuleMap(hidden)
        self.gate = nn.Linear(total, dim if count == 2 else count * dim, bias=False)

    def join(self, vectors: Sequence[Tensor], present: Tensor | None) -> Tensor:
        """Pass them through their gates."""
        hidden = torch.stack([layer(x).tanh() for layer, x in zip(self.hidden.values(), vectors, strict=True)], dim=1)
        gate = self.gate(torch.cat(list(vectors), dim=1)).sigmoid()
        if len(vectors) == 2:
            if present is not None:
                gate = torch.where(present.all(dim=1, keepdim=True), gate, present[:, :1].to(gate.dtype))
            gates = torch.stack([gate, 1 - gate], dim=1)
        else:
            gates = gate.unflatten(1, (len(vectors), -1))
            if present is not None:
                gates = torch.where(present[..., None], gates, 0)
        return (gates * hidden).sum(dim=1)


class Bilinear(PooledFuser):
    """Low-rank bilinear pooling, ``U_1^T x_1 ∘ … ∘ U_k^T x_k``, of rank ``dim``.

    With the linear layer of a head behind it, output ``j`` of two streams is ``x_1^T (U_1 diag(p_j) U_2^T) x_2 + b_j``,
    a bilinear form whose matrix has at most rank ``dim``. The factor of a stream that a sample lacks is 1.

    Source:
        Kim et al., "Hadamard Product for Low-rank Bilinear Pooling", 2017, arXiv:1610.04325, the form without a
        nonlinearity; ours takes more than two streams, and leaves the projection ``P`` and the bias to the head.
    """

    method = "bilinear"
    options = ("dim",)

    def __init__(self, streams: Streams, settings: FuserSettings, asked: Needs) -> None:
        super().__init__(streams, settings, asked)
        factors = {name: nn.Linear(one.pooled_dim, settings.dim, bias=False) for name, one in streams.items()}
        self.factors = ModuleMap(factors)

    def join(self, vectors: Sequence[Tensor], present: Tensor | None) -> Tensor:
        """Project and multiply them."""
        parts = torch.stack([layer(x) for layer, x in zip(self.factors.values(), vectors, strict=True)], dim=1)
        return (parts if present is None else torch.where(present[..., None], parts, 1)).prod(dim=1)
