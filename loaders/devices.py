"""What differs between graphics cards: how much memory is free, how it is given back, how running out of it looks."""

from __future__ import annotations

import gc
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .messages import message, sentences

# of the CPU's allocator, MPS and others, and cuBLAS (CUBLAS_STATUS_ALLOC_FAILED)
_PHRASES = ("not enough memory", "allocate memory", "out of memory", "alloc_failed")

ENCODING = {  # kind of encoder -> (what it did when memory ran out, what helps)
    "text": (message("reading_prompt"), message("smaller_encoder")),
    "image": (message("reading_first_frame"), message("close_or_less")),
}


class OutOfMemory(torch.OutOfMemoryError):
    """Memory ran out, in words. ComfyUI knows it by its base class and makes room for what comes after."""

    __module__ = "reelwire"  # as the host shows it


def free_bytes(device: torch.device) -> int:
    """Bytes that are free on a device, including what PyTorch holds back for reuse; sys.maxsize where nobody counts."""
    backend: Any = getattr(torch, device.type, None)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    if not hasattr(backend, "mem_get_info"):
        return sys.maxsize
    statistics = backend.memory_stats(device) if hasattr(backend, "memory_stats") else {}
    unused = statistics.get("reserved_bytes.all.current", 0) - statistics.get("active_bytes.all.current", 0)
    return int(backend.mem_get_info(device)[0] + unused)


def fragments() -> bool:
    """Whether a card's memory is kept by PyTorch's own allocator, whose blocks cannot grow: on AMD's cards, and on
    NVIDIA's where ComfyUI does not choose cudaMallocAsync. (Without a card here nothing is known, and it is not.)"""
    if not torch.cuda.is_available() or torch.cuda.get_allocator_backend() != "native":
        return False
    options = (os.environ.get(name, "") for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"))
    return not any("expandable_segments:True" in given for given in options)


KERNELS, SHARE = 128 << 20, 0.1
FRAGMENTED = 0.4  # the share where PyTorch's own allocator keeps the card's memory


def with_kernels(counted: int) -> int:
    """Room for what no count of tensors shows: workspaces of kernels (cuBLAS takes 32 MiB on a large card, attention a
    number for each token and head), and what an allocator loses by blocks that fit nothing else.

    On an H100 (bench/card/engine.py) a step held up to 1.07 times what is counted, and PyTorch's own allocator 1.2 to
    1.36 times at the point where it ran out; ComfyUI has NVIDIA's cards allocate by cudaMallocAsync, which moves its
    pages.
    """
    return KERNELS + math.ceil(counted * (1 + (FRAGMENTED if fragments() else SHARE)))


def empty_cache(device: torch.device) -> None:
    """Give back what PyTorch holds for reuse on a device, after what is garbage has been collected."""
    gc.collect()
    empty = getattr(getattr(torch, device.type, None), "empty_cache", None)
    if empty is not None:
        empty()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a card or in RAM."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in _PHRASES)


@contextmanager
def explained(activity: str, remedy: str) -> Iterator[None]:
    """Raise OutOfMemory, saying what was done and what helps, for any error within that says that memory ran out."""
    try:
        yield
    except OutOfMemory:
        raise
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise OutOfMemory(sentences(message("memory_out", activity=activity), remedy)) from error
