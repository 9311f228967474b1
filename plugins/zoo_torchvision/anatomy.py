"""The anatomy of a torchvision family: where its classifier, its first convolution and the ends of its stages are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Anatomy"]

Layout = Literal["NCHW", "NHWC", "tokens"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """Where things are in the members of a family, as paths in torchvision's module.

    Args:
        members: Shell patterns of the architectures.
        conv: The first convolution, which sees the picture.
        stem: Where the stem's own map is taken; None if the first stage has the stem's resolution.
        begins: Where the first stage begins.
        ends: Where the stages ``s1`` … ``sN`` end; at each end a map is taken.
        classifier: The last layer, which becomes the identity and whose tensors are left out of a weights file.
        inert: Layers without tensors that only served the classifier and become the identity too.
        auxiliary: Classifiers that exist in weights files and are never built.
        layout: How the library lays the maps out.
        tokens: The module whose output is the tokens, class token first; None if there are none.
        pooling: How the pooled vector comes about, in words.
        least: Least height and width of a picture, in pixels.
        size_keyword: The builder's keyword for the picture's size, if the architecture is made for one size.
        rates: Options that are chances in ``[0, 1)``, by the builder's own keywords.
        arguments: What the builder is always given.
        checkpoint_flag: Attribute of the modules that recompute in the backward pass where it is set.
        shifts_input: Whether pretrained weights come with a change of normalisation inside the module.
    """

    members: tuple[str, ...]
    conv: str
    begins: str
    ends: tuple[str, ...]
    classifier: str
    stem: str | None = None
    inert: tuple[str, ...] = ()
    auxiliary: tuple[str, ...] = ()
    layout: Layout = "NCHW"
    tokens: str | None = None
    pooling: str = "global average"
    least: int = 1
    size_keyword: str | None = None
    rates: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    checkpoint_flag: str | None = None
    shifts_input: bool = False

    @property
    def taps(self) -> dict[str, str]:
        """Stage name to the path of the module in which it ends and its map is taken."""
        stem = {"stem": self.stem} if self.stem else {}
        return stem | {f"s{number}": path for number, path in enumerate(self.ends, 1)}

    @property
    def options(self) -> tuple[str, ...]:
        """The options that a reference may carry."""
        return ("in_channels", *(("img_size",) if self.size_keyword else ()), *self.rates)
