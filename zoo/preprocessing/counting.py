"""How large a picture becomes where its pixels are counted, as language models with vision count them.

Numbers of pixels, not sides, are what these rules are given, and the sides are multiples of a block of patches. The
order of the operations on floats is each library's, since another order is a block off for some pictures.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from zoo.errors import DataError

__all__ = ["COUNTED"]

Size = tuple[int, int]
_LONGEST = 200
"""The longer side over the shorter at the most, for the rules that set a limit."""
_STEP = 1e-5
"""How near to the largest factor the search of :func:`_up` goes."""


def _plain(height: int, width: int, pixels: tuple[int, ...], multiple: int) -> Size:
    """Round to multiples, then shrink or enlarge to a number of pixels between the two; Qwen-VL's rule."""
    return _between(_not_too_long(height, width), pixels, multiple)


def _whole(height: int, width: int, pixels: tuple[int, ...], multiple: int) -> Size:
    """Do as :func:`_plain`, but enlarge what is smaller than one multiple first; GLM-V's rule."""
    if min(height, width) < multiple:
        scale = max(multiple / height, multiple / width)
        height, width = int(height * scale), int(width * scale)
    return _between(_not_too_long(height, width), pixels, multiple)


def _raised(height: int, width: int, pixels: tuple[int, ...], multiple: int) -> Size:
    """Do as :func:`_whole`, one side after the other; PaddleOCR-VL's rule."""
    if height < multiple:
        height, width = multiple, round((width * multiple) / height)
    if width < multiple:
        height, width = round((height * multiple) / width), multiple
    return _between(_not_too_long(height, width), pixels, multiple)


def _free(height: int, width: int, pixels: tuple[int, ...], multiple: int) -> Size:
    """Do as :func:`_plain` for pictures of any shape, each side one multiple at least; LFM2-VL's rule."""
    return _between((height, width), pixels, multiple, shortest=multiple)


def _between(sides: Size, pixels: tuple[int, ...], multiple: int, *, shortest: int = 0) -> Size:
    least, most = pixels
    height, width = sides
    rows, columns = (max(shortest, round(side / multiple) * multiple) for side in sides)
    if rows * columns > most:
        factor = math.sqrt((height * width) / most)
        rows, columns = (max(multiple, math.floor(side / factor / multiple) * multiple) for side in sides)
    elif rows * columns < least:
        factor = math.sqrt(least / (height * width))
        rows, columns = (math.ceil(side * factor / multiple) * multiple for side in sides)
    return rows, columns


def _not_too_long(height: int, width: int) -> Size:
    if max(height, width) > _LONGEST * min(height, width):
        raise DataError(
            f"A picture's longer side must be at most {_LONGEST} times the shorter for this backbone, got "
            f"{height}×{width}; cut it."
        )
    return height, width


def _up(height: int, width: int, pixels: tuple[int, ...], multiple: int) -> Size:
    """Keep the shape, as large as the number of pixels allows, sides rounded up; SigLIP 2's rule."""

    def scaled(factor: float) -> Size:
        rows, columns = (max(multiple, math.ceil(side * factor / multiple) * multiple) for side in (height, width))
        return rows, columns

    low, high = _STEP / 10, 100.0
    while high - low >= _STEP:
        middle = (low + high) / 2
        rows, columns = scaled(middle)
        low, high = (middle, high) if rows * columns <= pixels[0] else (low, middle)
    return scaled(low)


def _down(height: int, width: int, pixels: tuple[int, ...], multiple: int) -> Size:
    """Keep the shape, as large as the number of pixels allows, sides rounded down; Gemma 4's rule.

    A side that would be nothing is one multiple, and the other as many as the shape says.
    """
    factor = math.sqrt(pixels[0] / (height * width))
    rows, columns = (math.floor(factor * side / multiple) * multiple for side in (height, width))
    longest = pixels[0] // multiple**2 * multiple
    if rows == 0:
        rows, columns = multiple, min(math.floor(width / height) * multiple, longest)
    elif columns == 0:
        rows, columns = min(math.floor(height / width) * multiple, longest), multiple
    if not rows or not columns or rows * columns > pixels[0]:
        raise DataError(
            f"A picture of {height}×{width} cannot become sides of {multiple} or more with at most {pixels[0]} pixels; "
            "cut it."
        )
    return rows, columns


def _near(height: int, width: int, pixels: tuple[int, ...], multiple: int) -> Size:
    """Shrink to the number of pixels what has more, to the sides nearest in shape; Muse's rule.

    Sides that are equally near are told apart by the order of a set of numbers, as there.
    """
    most = pixels[0] // multiple**2
    rows, columns = height / multiple, width / multiple
    shape = columns / rows
    if rows * columns > most:
        rows = (most / shape) ** 0.5
        columns = rows * shape
    sides = set(itertools.product([math.floor(rows), math.ceil(rows)], [math.floor(columns), math.ceil(columns)]))
    fit = [(down, across) for down, across in sides if down >= 1 and across >= 1 and down * across <= most]
    fit = fit or [(max(1, round(rows)), max(1, round(columns)))]
    down, across = min(fit, key=lambda side: abs(side[0] / side[1] - height / width))
    return down * multiple, across * multiple


def _area(height: int, width: int, pixels: tuple[int, ...], multiple: int) -> Size:
    """Keep the shape, scaled to about the number of pixels, sides rounded; MiniCPM-V's rule for the whole picture."""
    shape = width / height
    rows = int(math.sqrt(pixels[0]) / math.sqrt(shape))
    columns = int(rows * shape)
    return max(round(rows / multiple) * multiple, multiple), max(round(columns / multiple) * multiple, multiple)


COUNTED: dict[str, tuple[int, Callable[[int, int, tuple[int, ...], int], Size]]] = {
    "budget": (2, _plain),
    "budget_whole": (2, _whole),
    "budget_raised": (2, _raised),
    "budget_free": (2, _free),
    "budget_up": (1, _up),
    "budget_down": (1, _down),
    "budget_near": (1, _near),
    "budget_area": (1, _area),
}
"""Name of a rule to how many numbers of pixels it takes, and the rule: height, width, pixels and multiple to sides."""
