"""The picture of a comparison: a moment of the grid, and the table below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .grid import BACKGROUND, DIM, GAP, INK, LINE, SHADE, write
from .lettering import Lettering
from .table import FIRST_NUMBER

if TYPE_CHECKING:
    from PIL.Image import Image

LEAST, MOST = 13, 30  # pixels of a letter


def still(grid: Image, head: Sequence[str], rows: Sequence[Sequence[str]], lettering: Lettering) -> Image:
    """The grid with its table, as wide as the grid."""
    from PIL import Image, ImageDraw

    width = grid.width - 2 * GAP
    size = _letters(head, rows, lettering, width)
    high = round(size * 2.1)
    image = Image.new("RGB", (grid.width, grid.height + high * (len(rows) + 1) + 2 * GAP), BACKGROUND)
    image.paste(grid, (0, 0))
    draw = ImageDraw.Draw(image)
    spans = _columns(head, rows, lettering, size, width)
    for number, row in enumerate([head, *rows]):
        top = grid.height + GAP + number * high
        if number % 2:
            draw.rectangle((GAP, top, GAP + width - 1, top + high - 1), fill=SHADE)
        for column, (cell, (left, room)) in enumerate(zip(row, spans, strict=True)):
            colour = DIM if number == 0 else INK
            write(draw, (left, top + round(size * 0.45)), cell, size, colour, lettering, room, column >= FIRST_NUMBER)
    bottom = grid.height + GAP + high
    draw.line((GAP, bottom, GAP + width - 1, bottom), fill=LINE, width=2)
    return image


def _letters(head: Sequence[str], rows: Sequence[Sequence[str]], lettering: Lettering, width: int) -> int:
    """The size in which the table fits, as large as the grid's words or smaller."""
    size = min(max(width // 64, LEAST), MOST)
    while size > LEAST and sum(_natural(head, rows, lettering, size)) > width:
        size -= 1
    return size


def _natural(head: Sequence[str], rows: Sequence[Sequence[str]], lettering: Lettering, size: int) -> list[int]:
    """How wide each column would be if there were room, with the space beside it."""
    return [max(lettering.width(cell, size) for cell in column) + 2 * size for column in zip(head, *rows, strict=True)]


def _columns(
    head: Sequence[str], rows: Sequence[Sequence[str]], lettering: Lettering, size: int, width: int
) -> list[tuple[int, int]]:
    """(left, room) of the words of each column. Where they are too wide together, the widest are cut; where there is
    room left, all get their part of it."""
    wide = _natural(head, rows, lettering, size)
    while (excess := sum(wide) - width) > 0 and max(wide) > 4 * size:
        widest = max(range(len(wide)), key=wide.__getitem__)
        wide[widest] -= min(excess, max(wide[widest] // 8, 1))
    spare = max(width - sum(wide), 0)
    wide = [each + spare * each // sum(wide) for each in wide]
    lefts = [GAP + sum(wide[:column]) for column in range(len(wide))]
    return [(left + size // 2, room - size) for left, room in zip(lefts, wide, strict=True)]
