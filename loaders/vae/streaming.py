"""Video VAEs as chains of generators: pieces of frames go in, pieces come out, and memory stays constant.

A stage takes an iterator of tensors [B, C, t, H, W] and yields the same frames transformed, later by its look-ahead.
Each stage holds only the frames that its own kernel spans, so the chain computes what the whole clip at once would.
Stages without such a past are `map`: unlike a loop, it lets go of a piece as soon as the next stage has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Pieces = Iterator[Tensor]


@dataclass
class Level:
    """The layers of a network between two changes of resolution.

    most: elements that a piece is brought to where frames are small, 0 for pieces as they come;
    offload_state: what its layers remember waits in RAM; last: no piece follows the one on its way.
    """

    most: int = 0
    offload_state: bool = False
    last: bool = False


class Delay:
    """Holds the frames of a residual path until the main path has caught up. offload_state: they wait in RAM."""

    def __init__(self, offload_state: bool = False) -> None:
        self._parts: list[Tensor] = []
        self._offload_state = offload_state

    def put(self, frames: Tensor) -> None:
        self._parts.append(frames.cpu() if self._offload_state else frames)

    def take(self, count: int, device: torch.device) -> Iterator[Tensor]:
        """The next `count` frames, in parts as they came."""
        while count:
            part = self._parts.pop(0)
            if part.shape[2] > count:
                self._parts.insert(0, part[:, :, count:].clone())
                part = part[:, :, :count]
            count -= part.shape[2]
            yield part.to(device)

    def add_to(self, frames: Tensor, through: Callable[[Tensor], Tensor] = lambda part: part) -> Tensor:
        """frames [B, C, n, H, W] plus, in place, the next n that wait, each gone `through` what else is on their
        path."""
        start = 0
        for part in self.take(frames.shape[2], frames.device):
            frames.narrow(2, start, part.shape[2]).add_(through(part))
            start += part.shape[2]
        return frames


def convolve(
    conv: Callable[[Tensor], Tensor], kernel: int, causal: bool, pieces: Pieces, level: Level, stride: int = 1
) -> Pieces:
    """A convolution over time that repeats the first and the last frame at the ends.

    conv: a convolution without padding in time; kernel, stride: its length and its step in frames, kernel >= stride.
    The frames behind the last piece are computed with it where both are no more than a piece of the level may be.
    """
    before = kernel - 1 if causal else (kernel - 1) // 2
    after = kernel - 1 - before
    window: Tensor | None = None
    for piece in pieces:
        device = piece.device
        start = piece[:, :, :1].repeat(1, 1, before, 1, 1) if window is None else window.to(device)
        whole = level.last and start.numel() + piece.numel() <= level.most
        end = [piece[:, :, -1:].repeat(1, 1, after, 1, 1)] if whole else []
        window = torch.cat([start, piece, *end], 2)
        del start, piece, end
        if window.shape[2] >= kernel:
            output = [conv(window)]
            steps = (window.shape[2] - kernel) // stride + 1
            window = None if whole else _rest(window, steps * stride, level)
            level.last = level.last and (whole or not after)
            yield output.pop()  # nothing of it is held here while the stages behind work on it
    if after and window is not None:
        window = window.to(device)
        window = torch.cat([window, window[:, :, -1:].repeat(1, 1, after, 1, 1)], 2)
        level.last = True
        if window.shape[2] >= kernel:
            yield conv(window)


def _rest(window: Tensor, start: int, level: Level) -> Tensor:
    rest = window[:, :, start:].clone()
    return rest.cpu() if level.offload_state else rest


def mark_last(pieces: Pieces, level: Level) -> Pieces:
    """The same pieces, each one late, so that the level knows the last."""
    waiting: list[Tensor] = []
    for piece in pieces:
        waiting.append(piece)
        if len(waiting) > 1:
            yield waiting.pop(0)
    level.last = True
    yield from waiting


def portions(pieces: Pieces, before: Level, level: Level, unit: int, units: int) -> Pieces:
    """The frames of the level before, in pieces for a level: about as many units of `unit` frames as it may take at
    once, at least one and at most `units`."""
    waiting: list[Tensor] = []
    for piece in pieces:
        waiting.append(piece)
        size = unit * max(1, min(units, level.most // (unit * piece[:, :, :1].numel())))
        count, last = sum(part.shape[2] for part in waiting), before.last
        del piece
        if count > size - unit or last:
            parts = [*torch.cat(waiting, 2).chunk(math.ceil(count / size), 2)]
            waiting.clear()
            while parts:
                level.last = last and len(parts) == 1
                yield parts.pop(0)


def split(pieces: Pieces, size: int) -> Pieces:
    """The same frames in pieces of at most `size`."""
    for piece in pieces:
        parts = [*piece.split(size, 2)]
        del piece
        while parts:
            yield parts.pop(0)


def regroup(pieces: Pieces, first: int, size: int) -> Pieces:
    """The same frames as one piece of `first` and then pieces of `size` frames; a rest that fills none is left out."""
    waiting: list[Tensor] = []
    for piece in pieces:
        waiting.extend(piece.split(1, 2))
        del piece
        while len(waiting) >= first:
            group, waiting, first = [torch.cat(waiting[:first], 2)], waiting[first:], size
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
