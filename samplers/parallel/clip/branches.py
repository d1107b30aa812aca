"""The forward passes of guidance on a rank each, and the two experts of Wan 2.2 on a rank each: for any family."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ....loaders.parts import Args, Network
from ....loaders.video_model import VideoModel
from .split import Ask, Split, agreed, broadcast, gathered

OWNERS = {"transformer_2": 1}  # the expert for low noise; all other parts are the first rank's


class BranchSplit(Split):
    """Forward pass i of a step is rank i's, and that of a further one begins again with the first rank."""

    divides_branches = True

    def __init__(self, rank: int, count: int, device: torch.device) -> None:
        self.rank, self.count, self._device = rank, count, device
        self._at_once = self._batched = False

    @property
    def leads(self) -> bool:  # type: ignore[override]
        """All know the same of a batch; of branches that are computed apart the first one is rank 0's."""
        return self.rank == 0 or self._batched or not self._at_once

    @contextmanager
    def spread(self, network: Network, model: VideoModel) -> Iterator[None]:
        """Of a family that computes both branches as one batch, the layers for single rows see two of them here too:
        one row is multiplied by other kernels, which round otherwise. So is one that is only shown several times."""
        alone = re.compile(model.single_rows) if model.single_rows else None
        named = network.named_modules() if model.batched_guidance else ()
        layers = [m for n, m in named if isinstance(m, nn.Linear) and not (alone and alone.search(n))]
        handles = [handle for layer in layers for handle in _as_in_batch(layer, lambda: self._batched)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def predictions(self, asks: Sequence[Ask], batched: bool = False) -> list[Tensor]:
        own: dict[int, Tensor] = {}
        self._at_once, self._batched = len(asks) > 1, batched and len(asks) > 1
        try:
            for i, ask in enumerate(asks):
                with ask.around():
                    if i % self.count == self.rank:
                        own[i] = ask.compute()
        finally:
            self._at_once = self._batched = False
        return [broadcast(own.get(i), i % self.count, self._device) for i in range(len(asks))]

    def whole_batch(self, x: Tensor) -> Tensor:
        return torch.cat(gathered(x, self.count)[1::-1]) if self._batched else x

    def branch(self, name: str) -> str:
        return "cond_uncond" if self._batched else name

    def agree(self, decision: bool) -> bool:
        return agreed(decision) if self._at_once and not self._batched else decision


class ExpertSplit(Split):
    """Each expert on a rank of its own, which hands its guided predictions to the other."""

    def __init__(self, rank: int, count: int, device: torch.device) -> None:
        self.rank, self.count, self._device = rank, count, device

    def computes(self, part: str) -> bool:
        return OWNERS.get(part, 0) == self.rank

    def guided(self, part: str, compute: Callable[[], Tensor]) -> Tensor:
        own = compute() if self.computes(part) else None
        return broadcast(own, OWNERS.get(part, 0), self._device)


def _as_in_batch(layer: nn.Linear, is_batch: Callable[[], bool]) -> Iterator[RemovableHandle]:
    """Hooks by which a layer that is given one row computes it as one of two, which are alike."""
    doubled: list[bool] = []

    def double(module: nn.Module, args: Args) -> Args:
        x = args[0]
        doubled.append(is_batch() and x.shape[0] == 1 and x.numel() == x.shape[-1])
        if doubled[-1]:
            return torch.cat([x, x]), *args[1:]
        return (x.contiguous(), *args[1:]) if is_batch() and 0 in x.stride() else args

    def halve(module: nn.Module, args: Args, output: Tensor) -> Tensor:
        return output[:1] if doubled.pop() else output

    yield layer.register_forward_pre_hook(double)
    yield layer.register_forward_hook(halve)
