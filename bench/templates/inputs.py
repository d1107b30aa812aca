"""Draws workflows/inputs/: the two pictures and the clip that templates load. Shapes that the bundled model knows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from PIL import Image, ImageDraw

FOLDER = Path(__file__).parent.parent.parent / "workflows" / "inputs"
PICTURE, CLIP, FINER = 512, 256, 4  # pixels; drawn finer, then made smaller
RADIUS, EDGE = 0.195, 0.26  # shares of the width
RED, BLACK = (225, 40, 40), (16, 16, 16)  # of training/world.py
FRAMES, TURN, FPS = 161, 32, 24  # of the clip: as many as the longest default of a model; frames there and back


def circle(across: float, size: int = PICTURE) -> Image.Image:
    """A red circle on black, in the middle of the height and at a share of the width."""
    large = size * FINER
    picture = Image.new("RGB", (large, large), BLACK)
    x, y, r = across * large, large / 2, RADIUS * large
    ImageDraw.Draw(picture).ellipse((x - r, y - r, x + r, y + r), RED)
    return picture.resize((size, size), Image.Resampling.LANCZOS)


def clip(size: int, frames: int) -> Iterator[Image.Image]:
    """The circle from the left to the right and back, again and again."""
    for i in range(frames):
        yield circle(0.5 - (0.5 - EDGE) * math.cos(2 * math.pi * i / TURN), size)


def write_clip(file: Path, size: int = CLIP, frames: int = FRAMES) -> None:
    """The clip as h264."""
    import av

    with av.open(str(file), "w") as container:
        stream = container.add_stream("h264", rate=Fraction(FPS), options={"crf": "16"})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for picture in clip(size, frames):
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    circle(EDGE).save(FOLDER / "reelwire_left.png", optimize=True)
    circle(1 - EDGE).save(FOLDER / "reelwire_right.png", optimize=True)
    write_clip(FOLDER / "reelwire_clip.mp4")
    print(*(f"{file.name}: {file.stat().st_size} bytes" for file in sorted(FOLDER.iterdir())), sep="\n")


if __name__ == "__main__":
    main()
