"""The anatomy of a torchvision family: where its classifier, its first convolution and the ends of its stages are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from zoo.preprocessing import Preprocessing

__all__ = ["Anatomy"]

Layout = Literal["NCHW", "NHWC", "tokens"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """Where things are in the members of a family, as paths in the network that is served.

    Args:
        members: Shell patterns of the architectures; with a dot, of architecture and tag.
        conv: The first convolution, which sees the input.
        stem: Where the stem's own map is taken; None if the first stage has the stem's resolution.
        begins: Where the first stage begins.
        ends: Where the stages ``s1`` … ``sN`` end; at each end a map is taken.
        inside: Path of the served network in the library's whole model; empty if it is the whole model.
        classifier: The last layer, which becomes the identity and whose tensors are left out of a weights file; empty
            if the network has none, and the pooled vector is then the mean of the last map.
        inert: Layers without tensors that only served the classifier and become the identity too.
        dropped: Layers and tensors of the served network that are taken away: they serve a detector's heads.
        left_out: Paths in the library's whole model whose tensors are in weights files and are never built.
        trunk: What runs one after another up to the last map; empty for the network's own forward.
        maps: Whether the stages' outputs are maps.
        layout: How the library lays the maps out.
        tokens: The module whose output is the tokens, class token first; None if there are none.
        pooling: How the pooled vector comes about, in words.
        least: Least height and width of a picture, in pixels.
        step: The size must be a multiple of this, in pixels, and no other than the one it is built for.
        one_size: Whether the network can be built for its native size only.
        size_keyword: The builder's keyword for the picture's size, if the architecture is made for one size.
        frames: Frames of a clip that the weights were trained with; None for pictures.
        least_frames: Least number of frames.
        fixed_frames: Whether ``frames`` is the only number.
        rates: Options that are chances in ``[0, 1)``, by the builder's own keywords.
        drop_path: How stochastic depth is set: by the builder's ``keyword``, in its ``modules``, or None for not at
            all.
        arguments: What the builder is always given.
        frozen_norm: Tag to the epsilon of the frozen batch norms with which the library loads these weights.
        checkpoint_flag: Attribute of the modules that recompute in the backward pass where it is set.
        shifts_input: Whether pretrained weights come with a change of normalisation inside the module.
        recipe: How pictures are prepared, where the weights' preset does not say.
    """

    members: tuple[str, ...]
    conv: str
    begins: str
    ends: tuple[str, ...]
    stem: str | None = None
    inside: str = ""
    classifier: str = ""
    inert: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    trunk: tuple[str, ...] = ()
    maps: bool = True
    layout: Layout = "NCHW"
    tokens: str | None = None
    pooling: str = "global average"
    least: int = 1
    step: int = 1
    one_size: bool = False
    size_keyword: str | None = None
    frames: int | None = None
    least_frames: int = 1
    fixed_frames: bool = False
    rates: tuple[str, ...] = ()
    drop_path: Literal["keyword", "modules"] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    frozen_norm: Mapping[str, float] = field(default_factory=dict)
    checkpoint_flag: str | None = None
    shifts_input: bool = False
    recipe: Preprocessing | None = None

    @property
    def modality(self) -> Literal["image", "video"]:
        """What the network looks at."""
        return "image" if self.frames is None else "video"

    @property
    def ends_by_stage(self) -> dict[str, str]:
        """Stage name to the path of the module in which it ends; where there are maps, they are taken there."""
        stem = {"stem": self.stem} if self.stem else {}
        return stem | {f"s{number}": path for number, path in enumerate(self.ends, 1)}

    @property
    def taps(self) -> dict[str, str]:
        """Name of a map, or ``tokens``, to the path of the module whose output it is."""
        tokens = {"tokens": self.tokens} if self.tokens else {}
        return (self.ends_by_stage if self.maps else {}) | tokens

    @property
    def keywords(self) -> frozenset[str]:
        """The keywords that the library's builder may be given."""
        size = (self.size_keyword,) if self.size_keyword else ()
        shift = ("transform_input",) if self.shifts_input else ()
        depth = ("stochastic_depth_prob",) if self.drop_path == "keyword" else ()
        return frozenset((*self.arguments, *self.rates, *size, *shift, *depth))

    @property
    def fixed_size(self) -> bool:
        """Whether a built network takes pictures of one size only."""
        return self.one_size or self.size_keyword is not None

    @property
    def options(self) -> tuple[str, ...]:
        """The options that a reference may carry."""
        depth = ("drop_path", "stochastic_depth_prob") if self.drop_path else ()
        return ("in_channels", "img_size", *self.rates, *depth)
