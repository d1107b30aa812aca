"""Video decoders as chains of generators: pieces of frames go in, pieces come out, and memory stays constant.

A stage takes an iterator of tensors [B, C, t, H, W] and yields the same frames transformed, later by its look-ahead.
Each stage holds only the frames that its own kernel spans, so the chain computes what the whole clip at once would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Pieces = Iterator[Tensor]


class Delay:
    """Holds the frames of a residual path until the main path has caught up."""

    def __init__(self) -> None:
        self._held: Tensor | None = None

    def put(self, frames: Tensor) -> None:
        self._held = frames if self._held is None else torch.cat([self._held, frames], 2)

    def take(self, count: int) -> Tensor:
        assert self._held is not None
        taken, self._held = self._held[:, :, :count], self._held[:, :, count:].clone()
        return taken


def convolve(conv: Callable[[Tensor], Tensor], kernel: int, causal: bool, pieces: Pieces) -> Pieces:
    """A convolution over time that repeats the first and the last frame at the ends, as the LTX VAE does.

    conv: a convolution without padding in time; kernel: its length in frames.
    """
    before = kernel - 1 if causal else (kernel - 1) // 2
    window: Tensor | None = None
    for piece in pieces:
        start = piece[:, :, :1].repeat(1, 1, before, 1, 1) if window is None else window
        window = torch.cat([start, piece], 2)
        if window.shape[2] >= kernel:
            yield conv(window)
            window = window[:, :, window.shape[2] - kernel + 1 :].clone()
    after = kernel - 1 - before
    if after and window is not None:
        window = torch.cat([window, window[:, :, -1:].repeat(1, 1, after, 1, 1)], 2)
        if window.shape[2] >= kernel:
            yield conv(window)


def drop_first(count: int, pieces: Pieces) -> Pieces:
    """Leave out the first `count` frames."""
    for piece in pieces:
        rest = piece[:, :, count:]
        count = max(0, count - piece.shape[2])
        if rest.shape[2]:
            yield rest
