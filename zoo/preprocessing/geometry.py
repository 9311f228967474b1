"""How large a picture becomes: the libraries' own rules, in whole pixels and with their very rounding.

Each rule is a pure function from the picture's height and width and the recipe's numbers to height and width. The
order of the operations on floats is each library's, since another order is a pixel off for some pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from zoo.preprocessing.counting import COUNTED

__all__ = ["RULES", "Fit", "scaled_size"]

Fit = Literal[
    "plain", "cover", "cover_factor", "contain", "contain_factor", "contain_half_up", "contain_down", "contain_cut",
    "within", "limit", "limit_down", "limit_half_up", "budget", "budget_whole", "budget_raised", "budget_free",
    "budget_up", "budget_down", "budget_near", "budget_area",
]  # fmt: skip
Size = tuple[int, int]


def scaled_size(height: int, width: int, resize: tuple[int, ...] | None, fit: Fit, multiple: int, snap: str) -> Size:
    """Give the height and width that a picture is scaled to, 1 or more each.

    Args:
        height: The picture's, in pixels.
        width: The picture's, in pixels.
        resize: The recipe's one or two numbers; None keeps the size.
        fit: What the numbers mean.
        multiple: The sides are multiples of this.
        snap: ``down`` or ``up`` to the next multiple.

    Raises:
        DataError: If a picture is too long for a rule that counts its pixels.
    """
    if resize is not None and fit in COUNTED:
        return COUNTED[fit][1](height, width, resize, multiple)
    if resize is None:
        rows, columns = height, width
    elif fit == "limit" and multiple > 1:
        rows, columns = _limit(height, width, resize, tall=True)
    else:
        rows, columns = RULES[fit](height, width, resize)
    if multiple > 1:
        raised = multiple - 1 if snap == "up" else 0
        rows, columns = ((side + raised) // multiple * multiple for side in (rows, columns))
    return max(rows, multiple), max(columns, multiple)


def _plain(height: int, width: int, resize: tuple[int, ...]) -> Size:
    """Scale the shorter side to one number, or both to two; torchvision's ``resize``."""
    if len(resize) == 2:
        return resize[0], resize[1]
    short, long = sorted((height, width))
    other = int(resize[0] * long / short)
    return (resize[0], other) if height <= width else (other, resize[0])


def _cover(height: int, width: int, resize: tuple[int, ...]) -> Size:
    """Keep the shape and cover both numbers; timm's ``ResizeKeepRatio``."""
    ratio = min(height / resize[0], width / resize[1])
    return round(height / ratio), round(width / ratio)


def _cover_factor(height: int, width: int, resize: tuple[int, ...]) -> Size:
    """Do as :func:`_cover`, by a factor instead of a ratio; PP-LCNet's rule."""
    factor = max(resize[0] / height, resize[1] / width)
    return round(height * factor), round(width * factor)


def _contain(height: int, width: int, resize: tuple[int, ...]) -> Size:
    """Keep the shape and fit into both numbers; timm's ``ResizeKeepRatio(longest=1)``."""
    ratio = max(height / resize[0], width / resize[1])
    return round(height / ratio), round(width / ratio)


def _contain_factor(height: int, width: int, resize: tuple[int, ...]) -> Size:
    """Do as :func:`_contain`, by a factor instead of a ratio; Janus' rule, a pixel beside in one picture of 40,000."""
    factor = min(resize[0] / height, resize[1] / width)
    return round(height * factor), round(width * factor)


def _contain_half_up(height: int, width: int, resize: tuple[int, ...]) -> Size:
    """Keep the shape and fit into both numbers, halves rounded up; Segment Anything's rule."""
    scale = min(resize[0] * 1.0 / height, resize[1] * 1.0 / width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def _contain_down(height: int, width: int, resize: tuple[int, ...]) -> Size:
    """Keep the shape and fit into both numbers, cut to whole pixels; transformers' ``max_height``, ``max_width``."""
    scale = min(resize[0] / height, resize[1] / width)
    return int(height * scale), int(width * scale)


def _contain_cut(height: int, width: int, resize: tuple[int, ...]) -> Size:
    """Do as :func:`_contain_down` with the side that touches exact; TVP's ``longest_edge``."""
    if height / resize[0] >= width / resize[1]:
        return resize[0], int(resize[0] * (width * 1.0 / height))
    return int(resize[1] * (height * 1.0 / width)), resize[1]


def _within(height: int, width: int, resize: tuple[int, ...]) -> Size:
    """Shrink what is larger than both numbers and never enlarge; Pixtral's rule."""
    ratio = max(height / resize[0], width / resize[1])
    return (math.floor(height / ratio), math.floor(width / ratio)) if ratio > 1 else (height, width)


def _limit(height: int, width: int, resize: tuple[int, ...], *, tall: bool = False) -> Size:
    """Scale the shorter side to one number, less where the longer would be above the other; DETR's rule.

    With ``tall``, a tall picture whose width is right already is scaled as any other; YOLOS's rule, in multiples.
    """
    short, long = sorted((height, width))
    size, exact = resize[0], float(resize[0])
    if float(long) / float(short) * size > resize[1]:
        exact = resize[1] * float(short) / float(long)
        size = round(exact)
    if short == size and not (tall and width < height):
        return height, width
    return (int(exact * height / width), size) if width < height else (size, int(exact * width / height))


def _limit_down(height: int, width: int, resize: tuple[int, ...]) -> Size:
    """Do as :func:`_limit` by one factor, cut to whole pixels; the rule of torchvision's detectors."""
    scale = min(resize[0] / min(height, width), resize[1] / max(height, width))
    return math.floor(height * scale), math.floor(width * scale)


def _limit_half_up(height: int, width: int, resize: tuple[int, ...]) -> Size:
    """Do as :func:`_limit` in exact numbers, halves rounded up at the end; ViLT's rule."""
    short = min(height, width)
    rows, columns = (float(resize[0]) if side == short else side * (resize[0] / short) for side in (height, width))
    if max(rows, columns) > resize[1]:
        scale = resize[1] / max(rows, columns)
        rows, columns = rows * scale, columns * scale
    return int(rows + 0.5), int(columns + 0.5)


RULES: dict[Fit, Callable[[int, int, tuple[int, ...]], Size]] = {
    "plain": _plain,
    "cover": _cover,
    "cover_factor": _cover_factor,
    "contain": _contain,
    "contain_factor": _contain_factor,
    "contain_half_up": _contain_half_up,
    "contain_down": _contain_down,
    "contain_cut": _contain_cut,
    "within": _within,
    "limit": _limit,
    "limit_down": _limit_down,
    "limit_half_up": _limit_half_up,
}
