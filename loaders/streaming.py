"""Video VAEs as chains of generators: pieces of frames go in, pieces come out, and memory stays constant.

A stage takes an iterator of tensors [B, C, t, H, W] and yields the same frames transformed, later by its look-ahead.
Each stage holds only the frames that its own kernel spans, so the chain computes what the whole clip at once would.
Stages without such a past are `map`: unlike a loop, it lets go of a piece as soon as the next stage has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Pieces = Iterator[Tensor]


class Delay:
    """Holds the frames of a residual path until the main path has caught up. thrifty: what is left waits in RAM."""

    def __init__(self, thrifty: bool = False) -> None:
        self._held: Tensor | None = None
        self._device, self._thrifty = torch.device("cpu"), thrifty

    def put(self, frames: Tensor) -> None:
        self._device = frames.device
        self._held = frames if self._held is None else torch.cat([self._held.to(self._device), frames], 2)

    def take(self, count: int) -> Tensor:
        assert self._held is not None
        held = self._held.to(self._device)
        taken, left = held[:, :, :count], held[:, :, count:].clone()
        self._held = left.cpu() if self._thrifty else left
        return taken


def convolve(
    conv: Callable[[Tensor], Tensor], kernel: int, causal: bool, pieces: Pieces, thrifty: bool = False, stride: int = 1
) -> Pieces:
    """A convolution over time that repeats the first and the last frame at the ends, as the LTX VAE does.

    conv: a convolution without padding in time; kernel, stride: its length and its step in frames, kernel >= stride;
    thrifty: its past waits in RAM.
    """
    before = kernel - 1 if causal else (kernel - 1) // 2
    window: Tensor | None = None
    for piece in pieces:
        device = piece.device
        start = piece[:, :, :1].repeat(1, 1, before, 1, 1) if window is None else window.to(device)
        window = torch.cat([start, piece], 2)
        del start, piece
        if window.shape[2] >= kernel:
            made = [conv(window)]
            steps = (window.shape[2] - kernel) // stride + 1
            window = window[:, :, steps * stride :].clone()
            window = window.cpu() if thrifty else window
            yield made.pop()  # nothing of it is held here while the stages behind work on it
    after = kernel - 1 - before
    if after and window is not None:
        window = window.to(device)
        window = torch.cat([window, window[:, :, -1:].repeat(1, 1, after, 1, 1)], 2)
        if window.shape[2] >= kernel:
            yield conv(window)


def regroup(pieces: Pieces, first: int, size: int) -> Pieces:
    """The same frames as one piece of `first` and then pieces of `size` frames; a rest that fills none is left out."""
    held: list[Tensor] = []
    for piece in pieces:
        held.extend(piece.split(1, 2))
        del piece
        while len(held) >= first:
            group, held, first = [torch.cat(held[:first], 2)], held[first:], size
            yield group.pop()


def drop_first(count: int, pieces: Pieces, dim: int = 2) -> Pieces:
    """Leave out the first `count` frames; dim: the pieces' dimension of time."""
    rest: list[Tensor] = []
    while count and (piece := next(pieces, None)) is not None:
        length = piece.shape[dim]
        if length > count:
            rest.append(piece.narrow(dim, count, length - count))
        count = max(0, count - length)
        del piece
    if rest:
        yield rest.pop()
    yield from pieces
