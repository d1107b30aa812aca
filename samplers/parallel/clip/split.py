"""How one clip is shared out among ranks, processes that all run the same sampler: what a run asks of it.

Every rank steps the same latents through the same solver. What differs is who computes what of a forward pass, and
what is exchanged, so that each rank goes on with the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ....loaders.parts import Network
from ....loaders.video_model import VideoModel

MOST_DIMS = 8
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Ask:
    """One forward pass of a step. around: what it runs in, on ranks that do not compute it too."""

    compute: Callable[[], Tensor]
    around: Callable[[], AbstractContextManager[None]] = nullcontext


class Split:
    """One process alone: all is computed here, and nothing is exchanged.

    rank, count: which of how many processes this is.
    divides_branches: whether the branches of guidance are computed apart, though a family has both in one batch.
    leads: whether this rank's cache decides for the others, now.
    """

    rank = 0
    count = 1
    divides_branches = False
    leads = True

    def computes(self, part: str) -> bool:
        """Whether this rank runs a part of the model."""
        return True

    def spread(self, network: Network, model: VideoModel) -> AbstractContextManager[None]:
        """The network as this rank runs it, for the length of the block."""
        return nullcontext()

    def predictions(self, asks: Sequence[Ask], batched: bool = False) -> list[Tensor]:
        """What all of these forward passes give. batched: one process alone would compute them as one batch, the last
        first."""
        results = []
        for ask in asks:
            with ask.around():
                results.append(ask.compute())
        return results

    def guided(self, part: str, compute: Callable[[], Tensor]) -> Tensor:
        """The guided prediction of a part."""
        return compute()

    def all_tokens(self, rows: Tensor) -> Tensor:
        """A tensor [B, n, ...] with a row for each token of this rank -> one with those of all."""
        return rows

    def whole_batch(self, x: Tensor) -> Tensor:
        """What this rank's forward pass has of a tensor -> the whole batch's."""
        return x

    def branch(self, name: str) -> str:
        """Under which name a cache keeps what it stores of a branch."""
        return name

    def agree(self, decision: bool) -> bool:
        """The decision of the rank that leads."""
        return decision


ALONE = Split()


@contextmanager
def redirected(
    modules: Sequence[nn.Module], through: Callable[[Callable[..., object]], Callable[..., object]]
) -> Iterator[None]:
    """Modules whose `forward` goes through what is made of it."""
    for module in modules:
        module.forward = through(module.forward)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def gathered(x: Tensor, count: int) -> list[Tensor]:
    """The tensors of this shape of all ranks, in their order."""
    own = _bytes_of(x)
    parts = [torch.empty_like(own) for _ in range(count)]
    dist.all_gather(parts, own)
    return [part.view(x.dtype).view(x.shape) for part in parts]


def exchanged(parts: Tensor) -> Tensor:
    """Parts of this shape [ranks, ...] of all ranks: part i goes to rank i, and what rank i has sent is part i."""
    own = _bytes_of(parts)
    received = torch.empty_like(own)
    dist.all_to_all_single(received, own)
    return received.view(parts.dtype).view(parts.shape)


def broadcast(x: Tensor | None, owner: int, device: torch.device) -> Tensor:
    """A tensor of the rank that owns it, on all ranks."""
    head = torch.zeros(2 + MOST_DIMS, dtype=torch.int64)
    if x is not None:
        head[: 2 + x.ndim] = torch.tensor([DTYPES.index(x.dtype), x.ndim, *x.shape])
    dist.broadcast(head, owner)
    kind, dims, *shape = head.tolist()
    if x is None:
        x = torch.empty(shape[:dims], dtype=DTYPES[kind], device=device)
    content = _bytes_of(x)
    dist.broadcast(content, owner)
    return content.view(DTYPES[kind]).view(x.shape)


def agreed(flag: bool, owner: int = 0) -> bool:
    """A flag of the rank that owns it, on all ranks."""
    value = torch.tensor([int(flag)])
    dist.broadcast(value, owner)
    return bool(value.item())


def _bytes_of(x: Tensor) -> Tensor:
    """A tensor as bytes in a row, which every backend can send."""
    return x.contiguous().view(-1).view(torch.uint8)
