"""Attention pooling: a classifier that learns which tokens to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.contracts.features import Features
from zoo.contracts.head import HeadContext, Needs
from zoo.errors import CapabilityError, ConfigError
from zoo.spec import HeadSpec
from zoo_heads.classes import ClassTask, more_classes
from zoo_heads.classifier import ClassifierConfig, classifying_layers

__all__ = ["AttentionPool", "AttentionPoolConfig", "AttentionPooling"]


@dataclass(frozen=True, kw_only=True)
class AttentionPoolConfig(ClassifierConfig):
    """Settings of an attention-pooled classifier; those of a classifier, and how it pools.

    Args:
        heads: Number of attention heads; the width of a token must be divisible by it.
        mlp_ratio: Width of the perceptron after the attention, in widths of a token; 0 for none.
    """

    heads: int = 8
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        """Check the values."""
        ClassifierConfig.__post_init__(self)
        if self.heads < 1:
            raise ConfigError(f"heads must be 1 or more, got {self.heads}.")
        if self.mlp_ratio < 0:
            raise ConfigError(f"mlp_ratio must be 0 or more, got {self.mlp_ratio}.")


class AttentionPooling(nn.Module):
    """One learnt query that attends to all tokens, and a perceptron around which the result is added.

    ``a = attention(query, tokens, tokens)``, then ``a + mlp(norm(a))``. A token that is masked adds nothing; of a
    sample all of whose tokens are masked, ``a`` is 0.

    Args:
        width: Width of a token.
        heads: Number of attention heads, of which ``width`` is a multiple.
        mlp_ratio: Width of the perceptron in widths of a token; 0 for none.

    Shape:
        - tokens: ``(B, N, width)``; mask: ``(B, N)`` bool, True where a token is real.
        - output: ``(B, width)``.
    """

    def __init__(self, width: int, *, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, 1, width))
        nn.init.xavier_uniform_(self.query)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        inner = mlp_ratio * width
        self.norm = nn.LayerNorm(width) if inner else None
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width)) if inner else None

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Give the pooled vector of each sample."""
        query = self.query.expand(len(tokens), -1, -1)
        if mask is None:
            pooled = self.attention(query, tokens, tokens, need_weights=False)[0]
        else:
            empty = ~mask.any(dim=1, keepdim=True)  # attention over nothing is not a number
            hidden = ~(mask | empty)
            pooled = self.attention(query, tokens, tokens, key_padding_mask=hidden, need_weights=False)[0]
            pooled = pooled.masked_fill(empty[:, :, None], 0.0)
        if self.norm is not None and self.mlp is not None:
            pooled = pooled + self.mlp(self.norm(pooled))
        return pooled.squeeze(1)


class AttentionPool(ClassTask):
    """A classifier on what one learnt query finds in the tokens, class and register tokens not among them.

    Shape:
        - tokens: ``(B, N, token_dim)``, any float dtype; mask: ``(B, N)`` bool, or None.
        - output: ``(B, K)`` logits, in nats, before softmax (sigmoid with ``multi_label``).
        - target: ``(B,)`` int64, -100 where missing; with ``multi_label`` ``(B, K)`` float32, NaN rows where missing.

    Raises:
        ConfigError: If ``classes`` is not set when it is built, or ``heads`` does not divide the width of a token.

    Source:
        Lee et al., "Set Transformer", 2019, arXiv:1810.00825 (pooling by attention with learnt queries); Zhai et al.,
        "Scaling Vision Transformers", 2022, arXiv:2106.04560 (the MAP head). Ours has their single query and one
        block, masks padded tokens, and ends in any classifier of ``classifier``.
    """

    Config = AttentionPoolConfig
    summary = "A classifier on tokens pooled by a learnt query's attention: one label, or any number"

    def __init__(self, spec: HeadSpec, config: AttentionPoolConfig, context: HeadContext) -> None:
        super().__init__(spec, config, context)
        backbone = context.streams[self.stream]
        if backbone.token_dim is None:
            raise CapabilityError(f"The head {spec.name!r} ({spec.type}) needs tokens; {backbone.reference} has none.")
        width = backbone.token_dim
        if width % config.heads:
            fits = ", ".join(str(heads) for heads in range(1, min(width, 64) + 1) if width % heads == 0)
            raise ConfigError(
                f"The head {spec.name!r} ({spec.type}) has heads={config.heads}, and {backbone.reference} has "
                f"tokens {width} wide; take a number that divides it: {fits}."
            )
        self.pool = AttentionPooling(width, heads=config.heads, mlp_ratio=config.mlp_ratio)
        self.layers = classifying_layers(config, width, len(self.labels.classes))

    def grown(self, classes: Sequence[str]) -> HeadSpec:
        """Describe itself with more classes: further rows of the last layer."""
        return more_classes(self.spec, self.config, classes)

    @classmethod
    def reads(cls, config: AttentionPoolConfig) -> Needs:
        """Read the tokens."""
        return Needs(tokens=True)

    def score(self, features: Features) -> Tensor:
        """Give the logits."""
        if features.tokens is None:
            raise CapabilityError(f"The head {self.spec.name!r} needs tokens, and they were not computed.")
        return self.layers(self.pool(features.tokens, features.mask))
