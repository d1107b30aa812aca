"""What PyTorch and ComfyUI call as `torch.npu`: the names that a device module has, answered by the pretend cards.

A device is an index, a torch.device, a string or None for the current card, as in torch.cuda. All memory is in bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch

_card = torch.ops.reelwire_card
OutOfMemoryError = torch.OutOfMemoryError
NAME = "Pretend card"
_KINDS = ("active_bytes", "allocated_bytes", "requested_bytes", "reserved_bytes")  # nothing is cached: all are the same


def _index(device: Any = None) -> int:
    if device is None:
        return current_device()
    index = device if isinstance(device, int) else torch.device(device).index
    return current_device() if index is None or index < 0 else index


# ---------------------------------------------------------------- devices


def is_available() -> bool:
    return True


def is_initialized() -> bool:
    return True


def init() -> None:
    """There is nothing to start."""


_lazy_init = init


def _is_in_bad_fork() -> bool:
    return False


def is_bf16_supported() -> bool:
    return True


def get_amp_supported_dtype() -> list[torch.dtype]:
    return [torch.float16, torch.bfloat16, torch.float32]


def device_count() -> int:
    return _card.count()


def current_device() -> int:
    return _card.current()


def set_device(device: Any) -> None:
    _card.exchange(_index(device))


@contextmanager
def device(device: Any) -> Iterator[None]:
    """Another card is the current one inside the block."""
    before = _card.exchange(_index(device))
    try:
        yield
    finally:
        _card.exchange(before)


def get_device_name(device: Any = None) -> str:
    return NAME


def get_device_capability(device: Any = None) -> tuple[int, int]:
    return 9, 0


def get_device_properties(device: Any = None) -> SimpleNamespace:
    return SimpleNamespace(name=NAME, total_memory=_card.cap(_index(device)), major=9, minor=0)


# ---------------------------------------------------------------- memory


def memory_allocated(device: Any = None) -> int:
    return _card.allocated(_index(device))


def max_memory_allocated(device: Any = None) -> int:
    return _card.peak(_index(device))


memory_reserved, max_memory_reserved = memory_allocated, max_memory_allocated


def reset_peak_memory_stats(device: Any = None) -> None:
    """As the pack does for each run that it measures; the tests' own peak goes on."""
    index = _index(device)
    _peaks[index] = whole_peak(index)
    _card.reset_peak(index)


_peaks: dict[int, int] = {}  # card -> the highest peak that was reset since `begin_peak`


def whole_peak(index: int) -> int:
    """The most since `begin_peak`, whoever has reset the peak meanwhile."""
    return max(_peaks.get(index, 0), _card.peak(index))


def begin_peak(index: int) -> None:
    _peaks.pop(index, None)
    _card.reset_peak(index)


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """(free, total)."""
    total = _card.cap(_index(device))
    return total - memory_allocated(device), total


def memory_stats(device: Any = None) -> dict[str, int]:
    values = {"current": memory_allocated(device), "peak": max_memory_allocated(device)}
    stats = {f"{kind}.all.{when}": value for kind in _KINDS for when, value in values.items()}
    return stats | {"num_ooms": refusals(device)}


def empty_cache() -> None:
    """Nothing is cached."""


ipc_collect = empty_cache


# ---------------------------------------------------------------- streams: all is done when a call returns


def synchronize(device: Any = None) -> None:
    """Nothing is pending."""


class Stream:
    def __init__(self, device: Any = None, *_: Any, **__: Any) -> None:
        self.device = torch.device("npu", _index(device))

    def synchronize(self, *_: Any) -> None:
        """Nothing is pending."""

    wait_stream = wait_event = record_event = synchronize

    def query(self) -> bool:
        return True


class Event:
    def __init__(self, *_: Any, **__: Any) -> None:
        """An event is over when it is recorded."""

    def synchronize(self, *_: Any) -> None:
        """Nothing is pending."""

    record = wait = synchronize

    def query(self) -> bool:
        return True


def current_stream(device: Any = None) -> Stream:
    return Stream(device)


default_stream, stream = current_stream, nullcontext


# ---------------------------------------------------------------- random numbers


def manual_seed(seed: int) -> None:
    _card.seed(current_device(), seed)


def manual_seed_all(seed: int) -> None:
    for index in range(device_count()):
        _card.seed(index, seed)


def get_rng_state(device: Any = None) -> torch.Tensor:
    return _card.rng_state(_index(device))


def set_rng_state(state: torch.Tensor, device: Any = None) -> None:
    _card.set_rng_state(_index(device), state)


# ---------------------------------------------------------------- for tests


def set_cap(size: int, device: Any = None) -> None:
    """How much memory the card has from now on."""
    _card.set_cap(_index(device), size)


def fail_after(allocations: int, device: Any = None) -> None:
    """The allocation after that many fails once; -1: none does."""
    _card.fail_after(_index(device), allocations)


def allocations(device: Any = None) -> int:
    """How many blocks were given out so far."""
    return _card.allocations(_index(device))


def refusals(device: Any = None) -> int:
    """How many allocations failed so far."""
    return _card.refusals(_index(device))
