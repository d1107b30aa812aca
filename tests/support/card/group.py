"""Ranks with a pretend card each: what they exchange goes through RAM, by gloo, under the name of an NPU's backend."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_map_only

NAME = "hccl"
EXCHANGES = ("broadcast_", "allgather_", "gather_", "alltoall_base_")


def register() -> None:
    """Make torch.distributed work on cards; called once in a process that has them."""
    if NAME.upper() in dist.Backend._plugins or NAME in dist.Backend.backend_list:
        return
    dist.Backend.register_backend(NAME, _beside, devices=["npu"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own hand tensors to the backend, and gloo does not know cards
        for name in EXCHANGES:
            torch.library.impl(f"c10d::{name}", "PrivateUse1")(_staged(getattr(torch.ops.c10d, name)))


def _beside(store: Any, rank: int, size: int, timeout: Any) -> Any:
    """What the process group keeps for cards; their exchanges are the CPU's."""
    return dist.ProcessGroupGloo(store, rank, size, timeout)


def _staged(op: Any) -> Callable[..., Any]:
    def exchange(*args: Any) -> Any:
        there: list[tuple[Tensor, Tensor]] = []

        def down(x: Tensor) -> Tensor:
            there.append((x, x.cpu()))
            return there[-1][1]

        answer = op(*tree_map_only(Tensor, down, args))
        work = answer[-1] if isinstance(answer, (tuple, list)) else answer
        dist.Work.unbox(work).wait()
        for card, ram in there:
            card.copy_(ram)
        own = {id(ram): card for card, ram in there}
        return tree_map_only(Tensor, lambda x: own.get(id(x), x), answer)

    return exchange
