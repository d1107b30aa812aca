"""The grid of a comparison: where each video lies, and what is written beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .lettering import Lettering

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

GAP = 12  # pixels between videos
LEAST_CELL, MOST_WIDTH, MOST_HEIGHT = 320, 1920, 4320  # pixels of a video, and of a grid whose width nobody chose
SMALLEST_CELL = 16  # pixels across, however narrow the grid was asked for
BACKGROUND, INK, DIM, LINE, SHADE = (17, 19, 24), (240, 242, 245), (158, 166, 178), (52, 57, 67), (26, 29, 36)
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Box:
    """Where something lies, in pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Grid:
    """pictures: where each video is shown, in the middle of its cell; captions: where its words stand, above it."""

    width: int
    height: int
    columns: int
    letters: int
    captions: tuple[Box, ...]
    cells: tuple[Box, ...]
    pictures: tuple[Box, ...]


def best_columns(count: int, width: int, height: int) -> int:
    """How many columns make the grid of videos of this size most like a screen, 16:9."""

    def apart(columns: int) -> float:
        rows = -(-count // columns)
        ratio = columns * width / (rows * height) / (16 / 9)
        return max(ratio, 1 / ratio) * (1 + 0.1 * (columns * rows - count))

    return min(range(count, 0, -1), key=apart)  # of two that are as good, the wider one


def lay_out(sizes: Sequence[tuple[int, int]], columns: int, width: int) -> Grid:
    """Where the videos of these (width, height) lie. columns, width: 0 for what suits them. Each is scaled to fit into
    a cell of the proportions that the widest and the highest of them need."""
    widest, highest = max(w for w, _ in sizes), max(h for _, h in sizes)
    columns = min(columns or best_columns(len(sizes), widest, highest), len(sizes))
    rows = -(-len(sizes) // columns)
    whole = width or min(max(widest, LEAST_CELL) * columns + GAP * (columns + 1), max(MOST_WIDTH, LEAST_CELL * columns))
    whole = max(whole, SMALLEST_CELL * columns + GAP * (columns + 1))
    cell = (whole - GAP * (columns + 1)) // columns
    cell = min(cell, int((MOST_HEIGHT / rows - 3 * GAP) * widest / highest))
    tall = max(round(cell * highest / widest), 2)
    letters = min(max(round(cell / 22), 15), 40)
    caption = round(letters * 2.9)
    corners = [
        (GAP + (at % columns) * (cell + GAP), GAP + (at // columns) * (caption + tall + GAP))
        for at in range(len(sizes))
    ]
    captions = tuple(Box(left, top, cell, caption) for left, top in corners)
    cells = tuple(Box(left, top + caption, cell, tall) for left, top in corners)
    pictures = tuple(_fitted(size, box) for size, box in zip(sizes, cells, strict=True))
    sides = columns * (cell + GAP) + GAP, rows * (caption + tall + GAP) + GAP
    return Grid(sides[0] + sides[0] % 2, sides[1] + sides[1] % 2, columns, letters, captions, cells, pictures)


def _fitted(size: tuple[int, int], cell: Box) -> Box:
    """The largest box of a size's proportions in the middle of a cell."""
    scale = min(cell.width / size[0], cell.height / size[1])
    width, height = max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)
    return Box(cell.left + (cell.width - width) // 2, cell.top + (cell.height - height) // 2, width, height)


def background(grid: Grid, labels: Sequence[tuple[str, str]], lettering: Lettering) -> Image:
    """The grid without its videos: (label, what it is) above each, cut where there is no more room."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (grid.width, grid.height), BACKGROUND)
    draw = ImageDraw.Draw(image)
    small = round(grid.letters * 0.8)
    for box, cell, (label, figures) in zip(grid.captions, grid.cells, labels, strict=True):
        write(draw, (box.left, box.top), label, grid.letters, INK, lettering, box.width)
        write(draw, (box.left, box.top + round(grid.letters * 1.45)), figures, small, DIM, lettering, box.width)
        draw.rectangle((cell.left, cell.top, cell.left + cell.width - 1, cell.top + cell.height - 1), fill=(0, 0, 0))
    return image


def write(
    draw: ImageDraw,
    at: tuple[int, int],
    text: str,
    size: int,
    colour: Colour,
    lettering: Lettering,
    room: int,
    is_right: bool = False,
) -> None:
    """Write a line, cut with "…" where it is longer than `room` pixels. is_right: it ends there instead."""
    text = lettering.fitted(text, size, room)
    left, top = at
    left += room - lettering.width(text, size) if is_right else 0
    for part, font in lettering.parts(text, size):
        draw.text((left, top + size), part, font=font, fill=colour, anchor="ls")
        left += round(font.getlength(part))
