"""Tiles of space for the VAEs: each step of time is made tile by tile, so that a large frame needs no more memory than
a small one.

Every tile runs through a stream of its own with its own state; the pieces that they yield are laid together again.
Where tiles overlap they fade into one another linearly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import tee
from typing import Any

import torch
from torch import Tensor

from ..devices import OutOfMemory, empty_cache, out_of_memory
from ..messages import message
from .streaming import Pieces, drop_first

OVERLAP = 0.25  # of a tile, with each neighbour
FEWEST = 4  # latent pixels across; smaller tiles would be all edge
Share = Callable[[Sequence[Pieces]], Iterator[tuple[Tensor, ...]]]  # streams of tiles -> the next piece of each


@dataclass(frozen=True)
class Tile:
    """A rectangle of a frame, in latent pixels. whole: (height, width) of the frame; offload_state: memory is short, so
    that what waits between two steps waits in RAM, and what can be made in parts is."""

    top: int
    left: int
    height: int
    width: int
    whole: tuple[int, int]
    offload_state: bool = False

    def cut(self, frames: Tensor) -> Tensor:
        """This tile of frames [..., H, W], whatever their resolution."""
        up = frames.shape[-2] / self.whole[0]
        top, left, height, width = (round(v * up) for v in (self.top, self.left, self.height, self.width))
        return frames[..., top : top + height, left : left + width]


@dataclass(frozen=True)
class Tiling:
    """How a frame is cut. size: latent pixels across a tile, 0 for the whole frame."""

    size: int = 0
    offload_state: bool = False

    def rows(self, height: int, width: int) -> list[list[Tile]]:
        """The tiles of a frame of height x width latent pixels, in rows."""
        (tops, high), (lefts, wide) = _starts(height, self.size), _starts(width, self.size)
        return [[Tile(top, left, high, wide, (height, width), self.offload_state) for left in lefts] for top in tops]

    def smaller(self, height: int, width: int) -> Tiling | None:
        """The next that needs less memory; None where there is none."""
        if not self.offload_state:
            return replace(self, offload_state=True)
        half = (self.size or max(height, width)) // 2
        return replace(self, size=half) if half >= FEWEST else None

    def words(self, ratio: int) -> str:
        """What is done, in pixels."""
        return message("tiles", size=self.size * ratio) if self.size else message("whole_in_parts")


def _starts(length: int, size: int) -> tuple[list[int], int]:
    """(where tiles begin, their length): evenly spread, each overlapping the next by OVERLAP or more."""
    if not size or size >= length:
        return [0], length
    count = math.ceil((length - size) / (size - max(1, math.ceil(size * OVERLAP)))) + 1
    return [round(i * (length - size) / (count - 1)) for i in range(count)], size


def in_turn(streams: Sequence[Pieces]) -> Iterator[tuple[Tensor, ...]]:
    """The next piece of each stream, all made here."""
    return zip(*streams, strict=True)


def tiled(
    stage: Callable[[Pieces, Tile], Pieces], pieces: Pieces, rows: list[list[Tile]], share: Share = in_turn
) -> Pieces:
    """Run a stage over pieces [B, C, t, h, w] tile by tile; it must yield the same number of frames for every tile.
    share: who makes the pieces of which tile."""
    tiles = [tile for row in rows for tile in row]
    if len(tiles) == 1:
        yield from stage(pieces, tiles[0])
        return
    sources = tee(pieces, len(tiles))
    streams = [stage(map(tile.cut, source), tile) for tile, source in zip(tiles, sources, strict=True)]
    for pieces_of_tiles in share(streams):
        yield _together(list(pieces_of_tiles), rows)


def one_by_one(stage: Callable[[Pieces, Tile], Pieces], source: Callable[[], Pieces], rows: list[list[Tile]]) -> Pieces:
    """As `tiled`, one tile after another: for stages that give little, as encoders do, whose pieces can all wait while
    the streams of other tiles keep nothing. source: called anew for each tile."""
    tiles = [tile for row in rows for tile in row]
    if len(tiles) == 1:
        yield from stage(source(), tiles[0])
        return
    results = [list(stage(map(tile.cut, source()), tile)) for tile in tiles]
    for pieces in zip(*results, strict=True):
        yield _together(list(pieces), rows)


def _together(tiles: list[Tensor], rows: list[list[Tile]]) -> Tensor:
    up, wide = tiles[0].shape[-1] / rows[0][0].width, len(rows[0])
    lines = [
        _fade(tiles[i * wide : (i + 1) * wide], [round(tile.left * up) for tile in row], 4)
        for i, row in enumerate(rows)
    ]
    return _fade(lines, [round(row[0].top * up) for row in rows], 3)


def _fade(parts: list[Tensor], starts: list[int], dim: int) -> Tensor:
    """Parts laid side by side along a dimension at their starts, each fading in over what it shares with those
    before."""
    whole = parts[0]
    for part, start in zip(parts[1:], starts[1:], strict=True):
        shared = whole.shape[dim] - start
        ramp = torch.linspace(0, 1, shared + 2)[1:-1].to(part)
        ramp = ramp.view([-1 if d == dim else 1 for d in range(part.ndim)])
        mixed = torch.lerp(whole.narrow(dim, start, shared), part.narrow(dim, 0, shared), ramp)
        rest = part.narrow(dim, shared, part.shape[dim] - shared)
        whole = torch.cat([whole.narrow(dim, 0, start), mixed, rest], dim)
    return whole


def retried(
    make: Callable[[Tiling], Pieces],
    tiling: Tiling,
    size: tuple[int, int],
    dim: int,
    device: torch.device,
    tell: Callable[[Tiling], None] = lambda _: None,
) -> Pieces:
    """The pieces of make(tiling); each time that memory runs out, the rest of them with the next smaller tiling.

    size: (height, width) of the frame in latent pixels; dim: the pieces' dimension of time; device: where they are
    made; tell: hears of each change.
    """
    done = 0
    while True:
        try:
            for piece in drop_first(done, make(tiling), dim):
                done += piece.shape[dim]
                yield piece
            return
        except OutOfMemory:  # of what makes the latents: smaller tiles are no help
            raise
        except Exception as error:
            if not out_of_memory(error):
                raise
            less = tiling.smaller(*size)
            if less is None:
                words = message("memory_out_tiles")
                raise OutOfMemory(words) from error
        empty_cache(device)  # what the broken run held; its traceback is gone by now
        tiling = less
        tell(tiling)


def to_device(state: Any, where: torch.device | str) -> Any:
    """A nest of tensors, moved to where it waits or is needed."""
    if isinstance(state, Tensor):
        return state.to(where)
    if isinstance(state, dict):
        return {key: to_device(value, where) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(to_device(value, where) for value in state)
    return state
