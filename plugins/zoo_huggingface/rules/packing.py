"""How a picture is packed into a row of patches, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Packing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """How a picture is packed into patches, as the type's own image processor does it.

    Letters name what a picture ``(B, C, H, W)`` is cut into: ``y x`` count the blocks of patches down and across,
    ``i j`` the patches in a block, ``u v`` the pixels in a patch, ``c`` the channels, and ``t`` the frames of a patch,
    all the same for a picture.

    Args:
        order: Order of the patches: ``yxij`` block by block, ``yixj`` row by row.
        values: Order of the numbers in a patch, such as ``ctuv``.
        shape: ``flat``, one row of numbers a patch; ``numbered``, the same, with the patch's row and column in front,
            counted from 1; ``patch``, those numbers in the dimensions that ``values`` names;
            ``block``, the pixels of a whole block of patches as one picture; ``strip``, all patches of all pictures
            side by side in one picture that is one patch high.
        batched: Whether the pictures of a batch stay apart; they are one long row otherwise.
        argument: transformers' name of the patches.
        extra: What is given beside them, by the name of a maker in ``zoo_huggingface.reading.packed``, each under the
            name of an argument.
        patch: Field of the config with the side of a patch, in pixels; or that number.
        merge: Field of the config with the patches a block, of each side; or that number.
        time: Field of the config with the frames of a patch; or that number.
        windowed: Fields of the config whose product is the side in pixels of the windows in which the blocks run;
            empty where they run in order.
        prefix: Number of class tokens in front of each picture.
    """

    order: Literal["yxij", "yixj"] = "yxij"
    values: str = "ctuv"
    shape: Literal["flat", "numbered", "patch", "block", "strip"] = "flat"
    batched: bool = False
    argument: str = "hidden_states"
    extra: tuple[tuple[str, str], ...] = (("grid_thw", "grid"),)
    patch: str | int = "patch_size"
    merge: str | int = "spatial_merge_size"
    time: str | int = "temporal_patch_size"
    windowed: tuple[str, ...] = ()
    prefix: int = 0
