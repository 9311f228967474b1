"""The standard views of each scheme, as its paper has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from zoo.augmentation import Augmentation

__all__ = ["SMALL_SHARE", "SMALL_VIEW", "VIEWS", "scaled_blur"]

_CROPS = Augmentation(scale=(0.08, 1.0), flip=0.5)
_SIMCLR = Augmentation.preset("simclr")
_BYOL = replace(
    _CROPS, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, jitter=0.8, grey=0.2, blur=1.0
)  # its two views differ in blur and solarising: the second table of arXiv:2006.07733
_BYOL_PAIR = (_BYOL, replace(_BYOL, blur=0.1, solarize=0.2))
_MOCO = replace(
    _CROPS, scale=(0.2, 1.0), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, jitter=0.8, grey=0.2, blur=0.5
)

VIEWS: Mapping[str, tuple[Augmentation, Augmentation]] = {
    "simclr": (_SIMCLR, _SIMCLR),
    "byol": _BYOL_PAIR,
    "simsiam": (_MOCO, _MOCO),
    "barlow_twins": _BYOL_PAIR,
    "dino": (replace(_BYOL_PAIR[0], scale=(0.4, 1.0)), replace(_BYOL_PAIR[1], scale=(0.4, 1.0))),
}
"""Scheme to its two large views."""
SMALL_VIEW = replace(_BYOL, scale=(0.05, 0.4), blur=0.5)
"""A small view of DINO."""
SMALL_SHARE = 96 / 224
"""Side of a small view as a share of a large one's, where the backbone takes pictures of any size."""
_SIDE = 224
"""Side in pixels of the views for which the papers give the blur."""


def scaled_blur(view: Augmentation, side: int) -> Augmentation:
    """Give a view of another size the blur that is as strong, as a share of its side.

    Args:
        view: A view whose blur is that for views of 224 pixels.
        side: Lesser side of the views to make, in pixels.
    """
    share = side / _SIDE
    return replace(view, sigma=(view.sigma[0] * share, view.sigma[1] * share))
