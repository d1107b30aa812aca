"""The picture of a template: what goes in, a film strip that comes out, the model's name.

The strip shows frames of the twin's own run where the bundled model makes them (`result` in cards.json), else of the
trained tiny model of its family where there is one and text alone goes in, else a drawn scene.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from . import trained

HERE = Path(__file__).parent
CARDS = json.loads((HERE / "cards.json").read_text(encoding="utf-8"))
API, GIVEN = (HERE.parent.parent / "workflows" / name for name in ("api", "inputs"))
SIZE, FINER = 400, 3  # pixels; drawn finer, then made smaller
FRAMES, CELL, STRIP, TOP = 3, (108, 86), (22, 196, 378, 322), 46  # of the strip: its frames, each one's size, its box
PAPER, INK, FILM, LIGHT = (244, 244, 240), (70, 78, 92), (24, 26, 32), (250, 206, 92)
SKY, HILL = ((250, 180, 110), (222, 150, 160), (92, 164, 226)), (52, 96, 88)  # from morning to day
GROUNDS = {
    "Any": ((66, 76, 140), (40, 44, 86)),
    "LTX-Video": ((104, 70, 152), (60, 38, 98)),
    "Wan": ((40, 98, 150), (22, 56, 96)),
    "CogVideoX": ((38, 120, 104), (20, 70, 64)),
    "HunyuanVideo": ((158, 92, 52), (98, 52, 30)),
    "Mochi": ((150, 66, 104), (92, 38, 66)),
    "Stable": ((74, 88, 104), (42, 52, 64)),
}
Box = tuple[float, float, float, float]
Point = tuple[float, float]
Run = Callable[[str, dict[str, Any]], bytes]  # (url of a ComfyUI, prompt) -> the video that it makes


class Pen:
    """Draws on a picture in its final units."""

    def __init__(self, picture: Image.Image) -> None:
        self.picture, self._draw = picture, ImageDraw.Draw(picture)

    def box(self, box: Box, fill: Any, radius: float = 0, line: Any = None, width: float = 0) -> None:
        scaled = tuple(v * FINER for v in box)
        self._draw.rounded_rectangle(scaled, radius * FINER, fill, line, round(width * FINER))

    def disc(self, x: float, y: float, radius: float, fill: Any = None, line: Any = None, width: float = 0) -> None:
        box = tuple(v * FINER for v in (x - radius, y - radius, x + radius, y + radius))
        self._draw.ellipse(box, fill, line, round(width * FINER))

    def shape(self, points: Sequence[Point], fill: Any) -> None:
        self._draw.polygon([(x * FINER, y * FINER) for x, y in points], fill)

    def text(self, x: float, y: float, text: str, size: float, fill: Any = PAPER, widest: float = SIZE - 28) -> None:
        """One line around a middle, made smaller where it is too wide."""
        font = ImageFont.load_default(size * FINER)
        if (length := self._draw.textlength(text, font)) > widest * FINER:
            font = ImageFont.load_default(size * FINER * widest * FINER / length)
        self._draw.text((x * FINER, y * FINER), text, fill, font, "mm")

    def paste(self, picture: Image.Image, box: Box) -> None:
        left, top, right, bottom = (round(v * FINER) for v in box)
        self.picture.paste(picture.resize((right - left, bottom - top), Image.Resampling.LANCZOS), (left, top))


def picture(url: str, name: str, run: Run) -> Image.Image:
    """The picture of a twin's card; `run` has the ComfyUI at `url` make a video where one is shown."""
    card = CARDS[name]
    large = ground(next((GROUNDS[key] for key in GROUNDS if card["model"].startswith(key)), GROUNDS["Any"]))
    pen = Pen(large)
    inputs = [kind for kind in card["drawing"] if kind in INPUTS]
    middles = [SIZE / 2 + (i - (len(inputs) - 1) / 2) * 128 for i in range(len(inputs))]
    shown = [cut(Image.open(GIVEN / f"reelwire_{side}.png")) for side in ("left", "right")]
    for i, (kind, x) in enumerate(zip(inputs, middles, strict=True)):
        picture = shown[i] if "result" in card else scene(float(i))
        INPUTS[kind](pen, (x - 54, TOP, x + 54, TOP + CELL[1]), picture)
    arrow(pen, TOP + CELL[1] + 12)
    strip(pen, result(run(url, twin(card["result"]))) if "result" in card else made(card, inputs))
    for kind in card["drawing"]:
        if kind in BADGES:
            badge(pen, BADGES[kind])
    pen.text(SIZE / 2, 360, card["model"], 30)
    return large.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def ground(colours: tuple[Any, Any]) -> Image.Image:
    """A plain that darkens to the bottom."""
    column = Image.new("RGB", (1, SIZE))
    for y in range(SIZE):
        share = y / (SIZE - 1)
        column.putpixel((0, y), tuple(round(a + (b - a) * share) for a, b in zip(*colours, strict=True)))
    return column.resize((SIZE * FINER, SIZE * FINER))


def text_card(pen: Pen, box: Box, _: Image.Image) -> None:
    """A sheet of paper with lines."""
    pen.box(box, PAPER, 8)
    for row, length in enumerate((0.78, 0.66, 0.8, 0.4)):
        left, top = box[0] + 12, box[1] + 15 + row * 17
        pen.box((left, top, left + length * 106, top + 7), INK, 3)


def picture_card(pen: Pen, box: Box, picture: Image.Image) -> None:
    """A photograph."""
    pen.box(box, PAPER, 6)
    left, top, right, bottom = box
    pen.paste(picture, (left + 6, top + 6, right - 6, bottom - 6))


def video_card(pen: Pen, box: Box, picture: Image.Image) -> None:
    """A frame with a sign to play it."""
    pen.box(box, FILM, 6)
    left, top, right, bottom = box
    holes(pen, (left, top, right, bottom), 7)
    inner = (left + 5, top + 14, right - 5, bottom - 14)
    shape = (round((inner[2] - inner[0]) * FINER), round((inner[3] - inner[1]) * FINER))
    pen.paste(ImageOps.fit(picture, shape), inner)
    x, y = (left + right) / 2, (top + bottom) / 2
    pen.disc(x, y, 19, PAPER)
    pen.shape([(x - 6, y - 10), (x - 6, y + 10), (x + 11, y)], INK)


def control_card(pen: Pen, box: Box, _: Image.Image) -> None:
    """The edges of the scene, white on black."""
    pen.box(box, FILM, 6)
    left, top, right, bottom = box
    holes(pen, (left, top, right, bottom), 7)
    middle = (left + right) / 2
    pen.disc(middle + 18, top + 34, 13, None, PAPER, 2.5)
    hill = [(left + 8 + i, bottom - 22 - 16 * math.sin(i / (right - left - 16) * math.pi)) for i in range(0, 93, 2)]
    for x, y in hill:
        pen.disc(x, y, 1.4, PAPER)


INPUTS: dict[str, Callable[[Pen, Box, Image.Image], None]] = {
    "text": text_card,
    "picture": picture_card,
    "video": video_card,
    "control": control_card,
}
BADGES = {
    "fast": "faster",
    "small": "less memory",
    "long": "longer",
    "large": "x 2",
    "larger": "x 4",
    "smooth": "2 x fps",
    "compare": "side by side",
}


def scene(time: float) -> Image.Image:
    """A sun that rises over a hill while the sky turns from morning to day. time: 0 to 1."""
    width, height = (v * FINER for v in CELL)
    first = min(int(time * 2), 1)
    sky = tuple(round(a + (b - a) * (time * 2 - first)) for a, b in zip(*SKY[first : first + 2], strict=True))
    image = Image.new("RGB", (width, height), sky)
    draw = ImageDraw.Draw(image)
    x, y, r = width * (0.24 + 0.5 * time), height * (0.66 - 0.4 * time), height * 0.17
    draw.ellipse((x - r, y - r, x + r, y + r), LIGHT)
    draw.ellipse((-width * 0.35, height * 0.62, width * 0.85, height * 1.7), HILL)
    draw.ellipse((width * 0.4, height * 0.7, width * 1.5, height * 1.8), tuple(v - 16 for v in HILL))
    return image


def arrow(pen: Pen, top: float) -> None:
    x = SIZE / 2
    pen.box((x - 5, top, x + 5, top + 20), PAPER, 2)
    pen.shape([(x - 17, top + 17), (x + 17, top + 17), (x, top + 37)], PAPER)


def holes(pen: Pen, box: Box, count: int) -> None:
    """The perforation along both edges of a film."""
    left, top, right, bottom = box
    step, size = (right - left) / count, 8
    for i in range(count):
        x = left + (i + 0.5) * step
        for y in (top + 3, bottom - 3 - 6):
            pen.box((x - size / 2, y, x + size / 2, y + 6), PAPER, 2)


def strip(pen: Pen, frames: Sequence[Image.Image]) -> None:
    """The film that comes out."""
    left, top, right, bottom = STRIP
    pen.box(STRIP, FILM, 6)
    holes(pen, STRIP, 20)
    space = (right - left - FRAMES * CELL[0]) / (FRAMES + 1)
    for i, frame in enumerate(frames):
        x, y = left + space + i * (CELL[0] + space), (top + bottom - CELL[1]) / 2
        pen.paste(frame, (x, y, x + CELL[0], y + CELL[1]))


def badge(pen: Pen, text: str) -> None:
    pen.box((SIZE - 128, 150, SIZE - 22, 182), LIGHT, 16)
    pen.text(SIZE - 75, 166, text, 17, FILM, 96)


def twin(name: str) -> dict[str, Any]:
    return json.loads((API / f"{name}.json").read_text(encoding="utf-8"))


def made(card: dict[str, Any], inputs: Sequence[str]) -> list[Image.Image]:
    """Frames of the trained model of a card's family, or the drawn scene."""
    frames = trained.frames(card["variant"].split("/")[0]) if {*inputs} == {"text"} else []
    return some(frames) if frames else [scene(i / (FRAMES - 1)) for i in range(FRAMES)]


def result(video: bytes) -> list[Image.Image]:
    """Frames of a video, from the first to the last, cut to a cell's shape."""
    import av

    with av.open(io.BytesIO(video), "r") as container:
        return some([frame.to_image() for frame in container.decode(video=0)])


def some(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """As many as the strip has, from the first to the last."""
    return [cut(frames[round(i * (len(frames) - 1) / (FRAMES - 1))]) for i in range(FRAMES)]


def cut(frame: Image.Image) -> Image.Image:
    """The middle of a frame in the shape of a cell."""
    height = frame.width * CELL[1] / CELL[0]
    top = (frame.height - height) / 2
    return frame.resize(
        (CELL[0] * FINER, CELL[1] * FINER), Image.Resampling.LANCZOS, (0, top, frame.width, top + height)
    )
