"""A grid of pictures with what was predicted and what is true."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from zoo.errors import ConfigError

if TYPE_CHECKING:
    from zoo.data import Sample

__all__ = ["Cell", "draw_grid"]

GOOD, BAD, INK = (22, 120, 60), (180, 40, 30), (40, 40, 40)
LINE = 17
"""Height of a line of text, in pixels."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One picture of a grid.

    Args:
        sample: The picture.
        lines: Lines of text below it, each with whether it is right; None where right and wrong mean nothing.
    """

    sample: Sample
    lines: tuple[tuple[str, bool | None], ...]


def draw_grid(cells: Sequence[Cell], path: str | Path, *, columns: int = 4, side: int = 200) -> Path:
    """Draw pictures in a grid, each with its lines of text, right ones green and wrong ones red.

    Args:
        cells: The pictures, in reading order; 1 or more.
        path: Where to write the PNG; it is written whole or not at all.
        columns: Pictures in a row.
        side: Longest side of a picture, in pixels.

    Returns:
        The path.

    Raises:
        ConfigError: If there is no cell, or a size is below 1.
        DataError: If a picture cannot be read.
    """
    if not cells or columns < 1 or side < 1:
        raise ConfigError(f"A grid needs cells, columns and a side above 0, got {len(cells)}, {columns} and {side}.")
    rows = -(-len(cells) // columns)
    gap = 12
    text = LINE * max(len(cell.lines) for cell in cells) + 6
    sheet = Image.new("RGB", (columns * (side + gap) + gap, rows * (side + text + gap) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for place, cell in enumerate(cells):
        x = gap + place % columns * (side + gap)
        y = gap + place // columns * (side + text + gap)
        picture = cell.sample.open()
        if isinstance(picture, Image.Image):
            small = picture.convert("RGB")
            small.thumbnail((side, side))
            sheet.paste(small, (x + (side - small.width) // 2, y + (side - small.height) // 2))
        for row, (line, right) in enumerate(cell.lines):
            colour = INK if right is None else GOOD if right else BAD
            draw.text((x, y + side + 4 + row * LINE), _fit(draw, line, font, side), fill=colour, font=font)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        sheet.save(temporary, format="PNG")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _fit(draw: ImageDraw.ImageDraw, line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Shorten a line until it fits below its picture; line breaks become blanks."""
    line = " ".join(line.split())
    if draw.textlength(line, font=font) <= width:
        return line
    while line and draw.textlength(line + "…", font=font) > width:
        line = line[:-1]
    return line + "…"
