"""The grid of a comparison as frames, one after another: never more than a frame of each video is in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .. import host
from .clips import Clip, Player
from .grid import Grid

if TYPE_CHECKING:
    from PIL.Image import Image

HOLD, REPEAT, SHORTEST = "hold the last frame", "begin again", "end with the shortest"
ENDS = (HOLD, REPEAT, SHORTEST)


@dataclass(frozen=True)
class Length:
    """Frames of the grid, and how many a second."""

    frames: int
    fps: Fraction


def length_of(clips: Sequence[Clip], fps: float, ends: str) -> Length:
    """How long the grid is. fps: 0 for the highest of the videos."""
    rate = Fraction(fps).limit_denominator(1001) if fps else max(clip.fps for clip in clips)
    rate = min(max(rate, Fraction(1)), Fraction(240))
    seconds = (min if ends == SHORTEST else max)(clip.seconds for clip in clips)
    return Length(max(round(seconds * rate), 1), rate)


class Rendering:
    """The frames of a grid."""

    def __init__(self, clips: Sequence[Clip], grid: Grid, background: Image, length: Length, ends: str) -> None:
        self._clips, self._grid, self._length, self._ends = clips, grid, length, ends
        self._canvas = np.array(background)
        self._middle = self._canvas

    def middle(self) -> Image:
        """The frame in the middle of the video, once it was made."""
        from PIL import Image

        return Image.fromarray(self._middle)

    def frames(self) -> Iterator[Tensor]:
        """Frames [1, H, W, 3] in 8 bits, with progress, preview and interrupt."""
        view, total = host.LiveView(), self._length.frames
        with ExitStack() as stack:
            players = [
                Player(clip, (box.width, box.height), self._ends == REPEAT)
                for clip, box in zip(self._clips, self._grid.pictures, strict=True)
            ]
            for player in players:
                stack.callback(player.close)
            for number in range(total):
                self._draw(players, number / self._length.fps)
                frame = torch.from_numpy(self._canvas.copy())[None]
                if number == total // 2:
                    self._middle = self._canvas.copy()
                view.frames(number + 1, total, frame, float(self._length.fps))
                yield frame

    def _draw(self, players: Sequence[Player], moment: Fraction) -> None:
        for player, box in zip(players, self._grid.pictures, strict=True):
            pixels, is_new = player.at(moment)
            if is_new:
                self._canvas[box.top : box.top + box.height, box.left : box.left + box.width] = pixels
