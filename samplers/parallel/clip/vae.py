"""A decode in tiles, which ranks share: each decodes its own through the whole video, and the first lays them
together. It is exact, since every tile has a stream of its own in one process too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from ....loaders.vae.streaming import Pieces
from ....loaders.vae.tiles import Share


def shared_tiles(rank: int, count: int, between: Callable[[], None]) -> Share:
    """Tile i is rank i's, and that of further ones begins again with the first; only the first rank gets them all.
    between: called on all ranks after each piece."""

    def share(streams: Sequence[Pieces]) -> Iterator[tuple[Tensor, ...]]:
        own = [streams[i] for i in range(rank, len(streams), count)]
        rounds = -(-len(streams) // count)
        for pieces in zip(*own, strict=True):
            rows = torch.stack([*pieces, *[pieces[0]] * (rounds - len(pieces))])
            parts = [torch.empty_like(rows) for _ in range(count)] if rank == 0 else None
            dist.gather(rows, parts)
            between()
            if parts is not None:
                yield tuple(parts[i % count][i // count] for i in range(len(streams)))

    return share
