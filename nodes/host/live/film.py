"""What is decoded so far, in a few small frames."""

from __future__ import annotations

import torch
from torch import Tensor

from .strip import MOST_FRAMES, MOST_SIDE


def shares(frames: Tensor) -> Tensor:
    """Frames on the CPU in 0..1, of 8 or 16 bits or so already."""
    most = {torch.uint8: 255, torch.uint16: 65535}.get(frames.dtype)
    return frames if most is None else frames / most


class Film:
    """Every so many-th frame of a video, small: never more than twice what a strip shows.

    count: frames of the video so far.
    """

    def __init__(self) -> None:
        self._kept, self._every, self.count = list[Tensor](), 1, 0

    def add(self, piece: Tensor) -> None:
        """Frames [n, H, W, 3] that follow, in 0..1 or in whole numbers."""
        step = max(1, max(piece.shape[1:3]) // (2 * MOST_SIDE))
        for frame in piece[-self.count % self._every :: self._every]:
            self._kept.append(frame[::step, ::step].cpu().clone())
        self.count += len(piece)
        while len(self._kept) > 2 * MOST_FRAMES:
            self._kept, self._every = self._kept[::2], 2 * self._every

    @property
    def frames(self) -> Tensor:
        """Those that are kept, [n, h, w, 3] in 0..1."""
        return shares(torch.stack(self._kept))
