"""How one model type of transformers becomes a uniform backbone, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["GENERIC", "Rule"]

Maps = Literal["tokens", "hidden_states", "reshaped_hidden_states"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How one model type becomes a uniform backbone.

    Args:
        pooling: What may give the pooled vector, the default first: ``cls`` (first token of ``last_hidden_state``),
            ``mean`` (over real tokens without prefix, or over space), ``pooler`` (the library's ``pooler_output``),
            ``eos`` (the same, where that is the end-of-text token), ``last`` (last real token).
        blocks: Path of the list of blocks; empty if not known, which leaves one stage, ``post``.
        maps: Which part of the output holds the maps; None if there are none.
        first: Index in the hidden states of what the first block gives; 1 where the embeddings' output stands first.
        resize: ``free`` (takes any picture size), ``flag`` (takes others when told to interpolate its positions) or
            ``fixed``.
        optional_pooler: Whether its class takes ``add_pooling_layer``.
        unpooled: Config fields to set when the pooler is not used, so that it is not built.
        forced: Config fields that are always set, so that no parameter is built which never runs.
        unused: Paths of parameters that never run in an encoder; they are removed, and left out of files.
        before_downsampling: Module whose pass is asked for the maps in front of each stage's downsampling.
        call: Further arguments of the forward pass.
        model: Name of its class in transformers, where that is not what ``AutoModel`` gives.
        tower: Path of the encoder inside that class.
        projection: Path of the layer that projects the pooled vector into the space shared by two towers; empty where
            the pooled vector is in that space already; None for a model that is no part of a dual tower.
        config: Field of the dual tower's config that holds this tower's.
    """

    pooling: tuple[str, ...] = ("mean",)
    blocks: str = ""
    maps: Maps | None = None
    first: int = 1
    resize: Literal["free", "flag", "fixed"] = "free"
    optional_pooler: bool = False
    unpooled: Mapping[str, Any] = field(default_factory=dict)
    forced: Mapping[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    before_downsampling: str | None = None
    call: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    tower: str = ""
    projection: str | None = None
    config: str | None = None


GENERIC = Rule(resize="fixed")
"""For a type without a rule."""
