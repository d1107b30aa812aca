"""A pretend graphics card: a PyTorch device "npu" whose memory lies in RAM, counted and capped.

ComfyUI takes it for an Ascend NPU, so that an unmodified ComfyUI loads, offloads and evicts models without a real card.
What is computed on it are the CPU's kernels on the card's memory: bit for bit the CPU's numbers. It shows what a card
shows: devices that are mixed (refused as CUDA refuses them), memory that runs out, weights that lie elsewhere, peaks,
leaks.

It cannot show speed, streams and asynchronous copies, pinned memory, compilation, the kernels and the rounding of CUDA,
or memory that a kernel takes for itself (im2col, workspaces): tensors alone are counted, in blocks of 512 bytes,
without a cache. matmul, linear and attention are whole and have no gradients; dropout draws from the CPU's random
numbers.

A process that has attached it keeps it: the device's name is torch's for the whole process. Tests that need it in their
own process are therefore run in another (see pytest_card.py). By hand, in the repository's folder:

    python -c "from tests.support.card import attach; card = attach(8 << 30); import torch; torch.ones(2, device='npu')"
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

USUAL_SIZE = 2 << 30


@dataclass(frozen=True)
class Card:
    """One card of this process: what it holds, in bytes, and what a test does to it."""

    index: int = 0

    def allocated(self) -> int:
        return _npu().memory_allocated(self.index)

    def peak(self) -> int:
        return _npu().max_memory_allocated(self.index)

    def reset_peak(self) -> None:
        _npu().reset_peak_memory_stats(self.index)

    def set_cap(self, size: int) -> None:
        _npu().set_cap(size, self.index)

    def fail_after(self, allocations: int) -> None:
        """The allocation after that many fails once; -1: none does."""
        _npu().fail_after(allocations, self.index)

    def allocations(self) -> int:
        return _npu().allocations(self.index)


def attach(size: int = USUAL_SIZE, count: int = 1) -> Card:
    """The first of `count` cards (npu:0, npu:1, ...) of `size` bytes each, in this process from now on.

    Called again, it changes size and count. Raises build.NoCompilerError where the card cannot be built.
    """
    import torch

    if not attached():
        from .build import library

        torch.ops.load_library(library())
        torch.utils.rename_privateuse1_backend("npu")
        from . import npu

        torch._register_device_module("npu", npu)
        torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
        torch.version.cuda = torch.version.hip = None  # ComfyUI takes a CUDA build for an NVIDIA card
    torch.ops.reelwire_card.set_count(count)
    for index in range(count):
        Card(index).set_cap(size)
    return Card()


def attached() -> bool:
    """Whether this process has the card."""
    torch = sys.modules.get("torch")
    return torch is not None and hasattr(torch, "npu")


@contextmanager
def seen_by_comfyui() -> Iterator[None]:
    """Inside the block `import torch_npu` works, as ComfyUI tries it; outside nobody finds an NPU's own kernels.

    ComfyUI must be imported inside. Where there is no card nothing changes.
    """
    if not attached():
        yield
        return
    sys.modules["torch_npu"] = ModuleType("torch_npu")
    try:
        yield
    finally:
        del sys.modules["torch_npu"]


def _npu() -> Any:
    import torch

    return torch.npu
