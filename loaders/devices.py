"""What differs between graphics cards: how much memory is free, how it is given back, how running out of it looks."""

from __future__ import annotations

import gc
import math
import os
import sys
from collections.abc import Iterator, Mapping
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


# type of a device whose memory PyTorch's allocator, or a copy of it, keeps -> where its options are: the first that is
# set counts (c10/core/AllocatorConfig.cpp)
_SHARED = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "cuda": _SHARED,  # AMD's cards too
    "xpu": _SHARED,
    "npu": ("PYTORCH_NPU_ALLOC_CONF",),
    "mlu": ("PYTORCH_MLU_ALLOC_CONF",),
}


def fragments(kind: str) -> bool:
    """Whether the memory of devices of this type is kept in blocks that cannot grow, as PyTorch's own allocator keeps
    it: on AMD's and Intel's cards, and on NVIDIA's where ComfyUI does not choose cudaMallocAsync. (Without such a card
    here nothing is known, and it is not.)"""
    backend = getattr(torch, kind, None)
    if kind not in OPTIONS or not getattr(backend, "is_available", lambda: False)():
        return False
    if getattr(backend, "get_allocator_backend", lambda: "native")() != "native":
        return False
    grows = _options(kind).get("expandable_segments") == "True"
    return not grows or sys.platform == "win32"  # where PyTorch warns that it knows no such blocks


def _options(kind: str) -> dict[str, str]:
    """The allocator's options as the environment has them."""
    written = next(filter(None, (os.environ.get(name) for name in OPTIONS[kind])), "")
    pairs = (option.partition(":") for option in "".join(written.split()).split(","))
    return {name: value for name, _, value in pairs}


KERNELS, SHARE = 128 << 20, 0.1
FRAGMENTED = 0.4  # the share where PyTorch's own allocator keeps the card's memory


def with_kernels(counted: int, kind: str) -> int:
    """Room on a device of this type for what no count of tensors shows: workspaces of kernels (cuBLAS takes 32 MiB on a
    large card, attention a number for each token and head), and what an allocator loses by blocks that fit nothing
    else.

    On an H100 (bench/card/engine.py) a step held up to 1.07 times what is counted, and PyTorch's own allocator 1.2 to
    1.36 times at the point where it ran out; ComfyUI has NVIDIA's cards allocate by cudaMallocAsync, which moves its
    pages.
    """
    return KERNELS + math.ceil(counted * (1 + share(kind)))


def share(kind: str) -> float:
    """What an allocator loses on a device of this type, as a share of what is counted."""
    return FRAGMENTED if fragments(kind) else SHARE


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
