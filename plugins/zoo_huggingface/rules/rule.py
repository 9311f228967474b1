"""How one model type of transformers becomes a uniform backbone, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from zoo_huggingface.rules.packing import Packing
from zoo_huggingface.rules.sequence import Sequence

__all__ = ["GENERIC", "Rule"]

Layout = Literal["tokens", "nchw", "nhwc", "hiera", "windows", "packed", "rows", "tiles"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How one model type becomes a uniform backbone.

    Args:
        takes: What it is given, by the name of a maker in ``zoo_huggingface.reading``: ``picture``, ``clip``,
            ``packed``, ``sequence``, …; empty for what its main input says.
        argument: transformers' name of the main input, where the maker's own is another.
        packing: How pictures are packed into patches, for ``packed``.
        sequence: How it takes texts or sounds, for ``sequence``.
        pooling: What may give the pooled vector, the default first: ``cls`` (first token of the last state), ``mean``
            (over real tokens without prefix, or over space), ``pooler`` (the library's ``pooler_output``), ``eos`` (the
            same, where that is the end-of-text token), ``last`` (last real token), ``merged`` (mean of the tokens that
            a tower gives to its language model).
        last: Field of the output that holds the last state, of several the last; with ``@`` in front, the path of the
            module that gives it.
        state: Layout of the last state, where it is not that of its rank: tokens, or NCHW.
        pooler: Field of the output that holds the pooled vector of ``pooler``, ``eos`` and ``merged``.
        blocks: Path of the list of blocks, or paths of the modules in which the stages end; empty if not known, which
            leaves one stage, ``post``. A block that is a list ends in its last member.
        begin: Path of the module in which the first block begins, where its own list does not show it.
        inside: Path in a block of the list in which the stage ends: with the last member of the first one's size.
        maps: Layout of what the blocks give; None if they are no maps.
        pick: Index in a block's output, where it is a tuple of tensors.
        stem: Path of the module whose output is the map of the stem, if no block has its resolution.
        stride: Pixels a token, where ``patch_size`` does not say it.
        growth: What the stride grows by from stage to stage.
        rounding: How a grid that is no whole number of tokens is rounded: ``floor`` (what is left over is not seen) or
            ``ceil`` (it is filled up).
        after: Number of tokens after the grid, which are no part of it, or the field of the config that has it.
        shrink: What height and width of the last state's grid are those of the blocks divided by, rounded up; 0 where
            the last state is no grid.
        resize: ``free`` (takes any picture size), ``flag`` (takes others when told to interpolate its positions) or
            ``fixed``.
        size: Height and width in pixels, where the config has no ``image_size``.
        divisor: Heights and widths must be multiples of this, or of the product of these, numbers
            and fields of the config.
        least: Least height and width in pixels; where a token is a patch, at least one patch.
        windows: Field of the config with the side of the windows of attention, in tokens, where a grid must hold one at
            every stage, and the library would shrink them for good in a pass where it does not.
        any_length: Whether a clip may have another number of frames than the weights were trained with.
        optional_pooler: Whether its class takes ``add_pooling_layer``.
        unpooled: Config fields to set when the pooler is not used, so that it is not built; where a published config
            has them so, there is no pooler.
        defaults: Config fields of a bare type, where the config's own defaults cannot be built or run; of many types in
            ``rules.mended``.
        forced: Config fields that are always set.
        unused: Paths of parameters that never run in an encoder, where a trial pass does not show it.
        beside: Paths of modules that run beside the others and whose outputs are no features; they are skipped.
        merger: Path of the module that merges tokens for a language model; skipped unless ``merged`` is what is pooled.
        call: Further arguments of the forward pass.
        checkpointing: Whether the library's gradient checkpointing, where its class says that it has it, reaches the
            blocks.
        model: Name of its class in transformers, where that is not what ``AutoModel`` gives.
        tower: Path of the encoder inside that class.
        projection: Path of the layer that projects the pooled vector into the space shared by two towers; empty where
            the pooled vector is in that space already; None for a model that is no part of a dual tower.
        config: Field of the dual tower's config that holds this tower's, where the class is built from that alone.
        view: Field of the config that holds the tower's, where the class is built from all of it.
    """

    takes: str = ""
    argument: str = ""
    packing: Packing | None = None
    sequence: Sequence | None = None
    pooling: tuple[str, ...] = ("mean",)
    last: str = "last_hidden_state"
    state: Layout | None = None
    pooler: str = "pooler_output"
    blocks: str | tuple[str, ...] = ""
    begin: str = ""
    inside: str = ""
    maps: Layout | None = None
    pick: int = 0
    stem: str = ""
    stride: int | None = None
    growth: int = 1
    rounding: Literal["floor", "ceil"] = "floor"
    after: str | int = ""
    shrink: int = 1
    resize: Literal["free", "flag", "fixed"] = "free"
    size: tuple[int, int] | None = None
    divisor: int | tuple[str | int, ...] = 1
    least: int = 1
    windows: str = ""
    any_length: bool = False
    optional_pooler: bool = False
    unpooled: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    forced: Mapping[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    merger: str = ""
    call: Mapping[str, Any] = field(default_factory=dict)
    checkpointing: bool = True
    model: str | None = None
    tower: str = ""
    projection: str | None = None
    config: str | None = None
    view: str = ""


GENERIC = Rule(resize="fixed")
"""For a type without a rule."""
